"""The inference graph in PyTorch itself, behind the runtime's Engine protocol: for evaluation while training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import FasterRCNN

from model.network.graph.inference import InferenceGraph
from model.runtime.detections import RawDetections


class EagerEngine:
    """Runs a torchvision detection model, without exporting it, as the serving engines run a bundle.

    `device` moves the model; None leaves it where it is. The model is shared, not copied: it answers with the weights
    of the moment, and it is left in eval mode, so call its `train()` before the next training step.
    """

    name = "eager"

    def __init__(self, model: FasterRCNN, device: torch.device | str | None = None) -> None:
        self._graph = InferenceGraph(model if device is None else model.to(device))
        self._device = next(model.parameters()).device

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""
        return str(self._device.type)

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """Detect; see `model.runtime.engines.Engine`. H and W are multiples of 32."""
        self._graph.eval()
        with torch.inference_mode():
            inputs = (torch.tensor(array) for array in (images, sizes, score_threshold))
            outputs = self._graph(*(tensor.to(self._device) for tensor in inputs))
        arrays: dict[str, NDArray[Any]] = {
            name: tensor.cpu().numpy() for name, tensor in zip(self._graph.output_names, outputs, strict=True)
        }
        return RawDetections(**arrays)

    def close(self) -> None:
        """Nothing to free: the model belongs to the caller."""
