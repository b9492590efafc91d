"""A static graph as an engine: on a GPU each shape of batch is captured once as a CUDA graph and replayed from then on.

    engine = StaticEngine(halve(model.to("cuda")))
    pending = engine.submit(images, sizes, thresholds)   # queues upload, replay and one download; returns at once
    raw = pending.result()

On a CPU the same steps run one after the other, which is for tests.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.graph.static import StaticGraph
from model.runtime.detections import RawDetections

WARM_UP_RUNS = 3
"""Before a capture: libraries choose their kernels and take their memory in the first runs, which a capture forbids."""

Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Field:
    """One output inside the packed bytes of a batch."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def pack(outputs: tuple[Tensor, ...]) -> Tensor:
    """All outputs as one uint8 [n], so that they come to the host in one copy."""
    return torch.cat([output.contiguous().flatten().view(torch.uint8) for output in outputs])


def unpack(data: Tensor, fields: tuple[Field, ...]) -> dict[str, NDArray[Any]]:
    """`pack` undone on the host, by name, as arrays with memory of their own."""
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for field in fields:
        dtype = torch.empty(0, dtype=field.dtype).numpy().dtype
        stop = start + math.prod(field.shape) * dtype.itemsize
        arrays[field.name] = np.frombuffer(data.numpy()[start:stop].tobytes(), dtype).reshape(field.shape)
        start = stop
    return arrays


class Pending:
    """A batch on its way."""

    def __init__(self, engine: StaticEngine, data: Tensor, fields: tuple[Field, ...]) -> None:
        self._engine, self._data, self._fields = engine, data, fields
        self._event = torch.cuda.Event() if engine.on_gpu else None
        if self._event is not None:
            self._event.record()

    def result(self) -> RawDetections:
        """Waits for the batch. Releases the GIL meanwhile."""
        if self._event is not None:
            self._event.synchronize()
        arrays = unpack(self._data, self._fields)
        self._engine.count_inexact(int((~arrays["exact"]).sum()))
        found = np.isfinite(arrays["scores"])
        index = np.nonzero(found)[0].astype(np.int64)
        optional = {name: arrays[name][found] for name in ("masks", "keypoint_heatmaps") if name in arrays}
        parts = {name: value.astype(np.float32, copy=False) for name, value in optional.items()}
        return RawDetections(arrays["boxes"][found], arrays["scores"][found], arrays["labels"][found], index, **parts)


class _Shape:
    """What is kept for one shape of batch: inputs on the device and, on a GPU, the captured graph."""

    def __init__(self, forward: Forward, names: list[str], images: Tensor, device: torch.device, capture: bool) -> None:
        batch = len(images)
        self.images = torch.zeros(images.shape, dtype=torch.uint8, device=device)
        self.sizes = torch.tensor([images.shape[1:3]] * batch, dtype=torch.int64, device=device)
        self.thresholds = torch.full((batch,), 0.5, device=device)
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        runs = WARM_UP_RUNS if capture else 1
        stream = torch.cuda.Stream() if capture else None
        with torch.cuda.stream(stream):
            if stream is not None:
                stream.wait_stream(torch.cuda.default_stream(device))
            for _ in range(runs):
                outputs = self._run()
        self.fields = tuple(
            Field(name, tuple(output.shape), output.dtype) for name, output in zip(names, outputs, strict=True)
        )
        if stream is not None:
            stream.synchronize()
            del outputs
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the GPU.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._packed = pack(self._run())

    def _run(self) -> tuple[Tensor, ...]:
        return self._forward(self.images, self.sizes, self.thresholds)

    def run(self) -> Tensor:
        if self._graph is None:
            return pack(self._run())
        self._graph.replay()
        return self._packed


class StaticEngine:
    """Runs a StaticGraph behind the runtime's Engine protocol; `run` and `submit` are safe from several threads.

    `capture`: None captures on a GPU. `forward` computes instead of the graph, such as a compiled form of it.
    `inexact` counts images whose answer may differ from `InferenceGraph`'s: too many candidates, or too long chains of
    overlaps.
    """

    name = "static"

    def __init__(self, graph: StaticGraph, *, capture: bool | None = None, forward: Forward | None = None) -> None:
        self.graph = graph.eval()
        self._device = next(graph.parameters()).device
        self.on_gpu = self._device.type == "cuda"
        self._capture = self.on_gpu if capture is None else capture
        if self._capture and not self.on_gpu:
            raise ValueError(f"the graph is on {self._device}: only a GPU can capture")
        self._forward = graph if forward is None else forward
        self._shapes: dict[tuple[int, ...], _Shape] = {}
        self._lock = threading.Lock()
        self.inexact = 0

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""
        return str(self._device.type)

    def count_inexact(self, images: int) -> None:
        """Adds to `inexact`."""
        with self._lock:
            self.inexact += images

    def submit(self, images: Tensor, sizes: Tensor, score_threshold: Tensor) -> Pending:
        """Queue a batch, on the host: see `InferenceGraph.forward`. Pinned tensors are uploaded without waiting."""
        with self._lock, torch.inference_mode():
            shape = self._shapes.get(tuple(images.shape))
            if shape is None:
                shape = _Shape(self._forward, self.graph.static_output_names, images, self._device, self._capture)
                self._shapes[tuple(images.shape)] = shape
            for target, source in ((shape.images, images), (shape.sizes, sizes), (shape.thresholds, score_threshold)):
                target.copy_(source, non_blocking=True)
            packed = shape.run()
            # The device's buffers are the next batch's too; the stream's order keeps them apart, and this is its own.
            data = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=self.on_gpu)
            data.copy_(packed, non_blocking=True)
            return Pending(self, data, shape.fields)

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """Detect; see `model.runtime.engines.Engine`. H and W are multiples of 32."""
        images_, sizes_, thresholds = (torch.tensor(array) for array in (images, sizes, score_threshold))
        return self.submit(images_, sizes_, thresholds).result()

    def close(self) -> None:
        """Free the captured graphs and their memory; another batch would be captured anew."""
        self._shapes.clear()
