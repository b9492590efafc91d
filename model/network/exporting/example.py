"""What a graph is traced with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.network.graph.inference import InferenceGraph


def example(graph: InferenceGraph) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of two images, as the graph takes it, on its device."""
    # Each dimension has its own size, and none is 0 or 1: the exporter would take equal sizes for one, and 1 for fixed.
    device = next(graph.parameters()).device
    shape = (2, 96, 160, graph.channels)
    images = torch.arange(math.prod(shape), device=device).remainder(251).to(torch.uint8).reshape(shape)
    sizes = torch.tensor([[96, 150], [90, 160]], device=device)
    return images, sizes, torch.full((2,), 0.5, device=device)
