"""What the tests of the engine share: a place that captures without a GPU, and a network whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.graph.static import StaticGraph
from model.network.serving.engine import StaticEngine
from model.network.serving.place import Capture, Host
from model.runtime.buckets import Buckets
from model.runtime.preprocess import Preprocessing

SEEN = Preprocessing(min_size=64, max_size=128)
BUCKETS = Buckets(SEEN)
"""Sides of 32, 64, 96 and 128 pixels."""


class Recording:
    """Computed again by itself, into the same memory, as a CUDA graph is."""

    def __init__(self, run: Callable[[], Tensor], size: int) -> None:
        self._run, self.output, self.bytes = run, run().clone(), size
        self.replays, self.is_free = 0, False

    def replay(self) -> None:
        assert not self.is_free
        self.replays += 1
        self.output.copy_(self._run())

    def free(self) -> None:
        self.is_free = True


class Recorder(Host):
    """A CPU that captures: each costs `size` bytes, and with `error` fails."""

    captures = True
    recording: type[Recording] = Recording

    def __init__(self, capture_bytes: int = 1 << 30, size: int = 1000) -> None:
        super().__init__()
        self.capture_bytes, self.size = capture_bytes, size
        self.captured: list[Recording] = []
        self.error: Exception | None = None
        self.tidied = 0
        self.lost = ""

    def why_lost(self) -> str:
        return self.lost

    def tidy(self) -> None:
        self.tidied += 1

    def capture(self, run: Callable[[], Tensor], beside: Callable[[], Capture | None]) -> Recording:
        if self.error is not None:
            raise self.error
        with self.turn():
            self.captured.append(self.recording(run, self.size))
        return self.captured[-1]


def known_answers(images: Tensor, sizes: Tensor, thresholds: Tensor, canvases: Tensor | None) -> tuple[Tensor, ...]:
    """One detection in an image: as large as it is valid, and scored by its first pixel's red. Green makes it inexact,
    blue overflow."""
    red, green, blue = (images[:, 0, 0, :].to(torch.float32) / 255).unbind(1)
    count = len(images)
    boxes, scores = torch.zeros(count, 2, 4), torch.full((count, 2), -torch.inf)
    boxes[:, 0, 2:] = sizes.flip(1).to(torch.float32)
    scores[:, 0] = torch.where(red > thresholds, red, -torch.inf)
    return boxes, scores, torch.ones(count, 2, dtype=torch.int64), green == 0, blue == 0


class KnownExactly:
    """In place of an InferenceGraph: one detection of label 2, at half of the image's red."""

    output_names = ("boxes", "scores", "labels", "image_index")

    def __call__(self, images: Tensor, sizes: Tensor, thresholds: Tensor) -> tuple[Tensor, ...]:
        assert len(images) == 1
        scores = images[:, 0, 0, 0].to(torch.float32) / 510
        return torch.zeros(1, 4), scores, torch.full((1,), 2), torch.zeros(1, dtype=torch.int64)


@cache
def _graph_that_nobody_runs(config: ArchitectureConfig) -> StaticGraph:
    return StaticGraph(build_model(config))


def known_engine(helpers: Any, place: Host, **options: Any) -> StaticEngine:
    """A StaticEngine that answers as above."""
    graph = _graph_that_nobody_runs(helpers.small)
    return StaticEngine(graph, place, **{"forward": known_answers, **options})


def engine_of(
    model: Any, seen: Preprocessing, graph: StaticGraph | None = None, forward: Any = None, batch_size: int = 2
) -> StaticEngine:
    """A StaticEngine of a real network, in float32 where no graph is given."""
    graph = graph or halve(model, torch.float32)
    exact = InferenceGraph(model).eval()
    return StaticEngine(graph, Recorder(), exact=exact, batch_size=batch_size, buckets=Buckets(seen), forward=forward)


def image(height: int, width: int, red: int, green: int = 0, blue: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]."""
    pixels = np.full((height, width, 3), 77, np.uint8)
    pixels[0, 0] = red, green, blue
    return pixels


def ask(engine: StaticEngine, *images: np.ndarray, threshold: float = 0.0) -> list[tuple[float, list[float]]]:
    """Score and (width, height) of the object in each image."""
    sizes = np.array([each.shape[:2] for each in images], np.int64)
    raw = engine.submit(images, sizes, np.full(len(images), threshold, np.float32)).result()
    found = [raw.of_image(index) for index in range(len(images))]
    return [
        (round(float(one.scores[0]), 3), one.boxes[0, 2:].tolist()) if len(one.scores) else (0, []) for one in found
    ]
