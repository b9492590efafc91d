"""Random decisions of a training sample, all from torch's global generator, which the dataset seeds for each sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def chance(probability: float) -> bool:
    """True with this probability. Nothing is drawn for a probability of zero: what is off moves nothing else."""
    return probability > 0 and float(torch.rand(())) < probability


def uniform(low: float, high: float) -> float:
    """A number between `low`, which can come, and `high`, which practically never does."""
    return low + (high - low) * float(torch.rand(()))


def integer(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, ()))


def subset(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Between one and all of `rows` [N], every number equally likely, in rising order; empty of none."""
    if len(rows) == 0:
        return rows
    count = integer(1, len(rows))
    return np.sort(rows[torch.randperm(len(rows))[:count].numpy()])
