"""Random decisions of a training sample, all from torch's global generator, and the seeds that it gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def mix(numbers: Sequence[int]) -> int:
    """One seed for torch, 0 to 2**63 - 1, out of several numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]) & 0x7FFF_FFFF_FFFF_FFFF


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
