"""A trained torchvision model -> model.torchscript.pt, the inference graph with every size dynamic, without ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from model.network.exporting.example import example
from model.network.exporting.saving import save_whole
from model.network.graph.inference import InferenceGraph, evaluating
from model.network.graph.nms import TORCH


def export_torchscript(model: FasterRCNN, path: Path | str) -> None:
    """Write the model's inference graph as TorchScript; it can be loaded onto another device than the model's.

    The file needs `import torchvision` before it is loaded. TorchScript is deprecated upstream without a successor that
    runs dynamic sizes from one file; the warnings about that end here.
    """
    graph = InferenceGraph(model, TORCH)
    with evaluating(graph), torch.no_grad(), warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`?torch\.jit", category=category)
        # The checker runs the graph twice more, on the same input.
        traced = torch.jit.trace(graph, example(graph), check_trace=False)
        save_whole(lambda buffer: torch.jit.save(traced, buffer), Path(path))
