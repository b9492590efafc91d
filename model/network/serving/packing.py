"""Everything that a batch is answered in one piece of memory, so that it comes to the host in one copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """One output inside the packed bytes of a batch."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def pack(outputs: tuple[Tensor, ...]) -> Tensor:
    """All outputs as one uint8 [n]."""
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


class HostMemory:
    """The host's side of one batch on its way, pinned where a GPU is to read and write it by itself.

    Whoever has it may write into it only when the device is done with what was in it.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._bytes: dict[str, Tensor] = {}

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of this shape, holding whatever was there. What was given under the name before is taken back."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._bytes.get(name)
        if memory is None or len(memory) < size:
            memory = self._bytes[name] = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return memory[:size].view(dtype).view(shape)
