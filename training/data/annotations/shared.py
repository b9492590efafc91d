"""Numpy arrays that worker processes read without a copy of their own.

A DataLoader's worker that is started with spawn or forkserver gets its dataset pickled. Arrays would be copied to each
of them, and Python objects too; these move into one anonymous file in memory, and the worker gets its descriptor. That
needs no room in /dev/shm, which is small in a container.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes: where an array may start in the file."""


class _Place(NamedTuple):
    """Where an array lies in the file, in bytes from its start."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


class SharedArrays:
    """Arrays by name, for reading only: arrays["ids"]. They belong to this object, which marks them so.

    Pickled to a process that is being started they are shared, as above; every other pickle and copy has its own.
    """

    def __init__(self, **arrays: NDArray[Any]) -> None:
        for array in arrays.values():
            array.setflags(write=False)
        self._arrays = arrays
        self._places: list[_Place] = []
        self._descriptor: int | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self._arrays.values())

    def __reduce__(self) -> tuple[Callable[..., SharedArrays], tuple[Any, ...]]:
        if get_spawning_popen() is None:
            return _copied, (self._arrays,)
        if self._descriptor is None:
            self._descriptor = self._move()
        return _attached, (DupFd(self._descriptor), self._places)

    def _move(self) -> int:
        """Moves the arrays into a new file, one after the other, and gives its descriptor."""
        end = 0
        for name, array in self._arrays.items():
            self._places.append(_Place(name, array.dtype, array.shape, end))
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        descriptor = _anonymous_file(end + ALIGNMENT)  # a file without a byte cannot be mapped
        weakref.finalize(self, os.close, descriptor)
        block = mmap.mmap(descriptor, end + ALIGNMENT)
        for place in self._places:
            moved = _array_at(block, place)
            moved[...] = self._arrays[place.name]
            moved.setflags(write=False)
            self._arrays[place.name] = moved
        return descriptor


def _anonymous_file(size: int) -> int:
    """Descriptor of a file of `size` bytes that has no name and is gone with its last user."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("arrays")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _array_at(block: mmap.mmap, place: _Place) -> NDArray[Any]:
    return np.ndarray(place.shape, place.dtype, buffer=block, offset=place.start)


def _copied(arrays: dict[str, NDArray[Any]]) -> SharedArrays:
    return SharedArrays(**arrays)


def _attached(handle: Any, places: list[_Place]) -> SharedArrays:
    descriptor = handle.detach()
    try:
        block = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)  # it keeps a descriptor of its own
    finally:
        os.close(descriptor)
    return SharedArrays(**{place.name: _array_at(block, place) for place in places})
