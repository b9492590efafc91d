"""Inputs of the tiny network, and what every engine must do with them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from model.runtime.engines.engine import Engine

Feeds = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]


def batch(*brightness: int, thresholds: float = 0.3) -> Feeds:
    """One gray 64x96 image for each brightness."""
    images = np.stack([np.full((64, 96, 3), value, np.uint8) for value in brightness])
    return images, np.array([[64, 96]] * len(images)), np.full(len(images), thresholds, np.float32)


def assert_threads_share(engine: Engine) -> None:
    """Each of several threads gets its own answers. The engine runs the tiny network."""
    start = threading.Barrier(4)

    def run(brightness: int) -> list[float]:
        start.wait()
        return [float(engine.run(*batch(brightness)).scores[0]) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for brightness, scores in zip((100, 150, 200, 250), pool.map(run, (100, 150, 200, 250)), strict=True):
            np.testing.assert_allclose(scores, brightness / 255, rtol=1e-6)
