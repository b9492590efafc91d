"""A part of a dataset, for benchmarks that need not see all of it."""

from __future__ import annotations

import numpy as np

from training.data.annotations.dataset import Dataset


def evenly(data: Dataset, most: int | None) -> Dataset:
    """At most so many images, evenly spread; None is all."""
    count = len(data) if most is None else min(most, len(data))
    return data.part(np.linspace(0, len(data) - 1, count).round().astype(int).tolist(), data.name)
