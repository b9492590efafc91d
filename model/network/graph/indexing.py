"""Indexing that exports as single operators, and on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def true_rows(mask: Tensor) -> Tensor:
    """bool [N] -> int64 [n], rising: where it is true."""
    return torch.nonzero(mask).squeeze(1)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """x [N, ...], index int64 [n] -> [n, ...]."""
    # Indexing with [] exports as a transposition and GatherND, this as one Gather.
    return x.index_select(0, index)


def _arange(x: Tensor, dim: int) -> Tensor:
    return torch.arange(x.size(dim), device=x.device)


# Scripted because a trace would write the tracing device into the graph, which could then not move to another one.
positions: Callable[[Tensor, int], Tensor] = torch.jit.script_if_tracing(_arange)
"""(x, dim) -> int64 [x.shape[dim]]: 0, 1, 2, ..."""
