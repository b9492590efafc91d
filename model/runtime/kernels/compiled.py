"""The one way numba kernels are declared here: no GIL, cached on disk where a disk can be written.

A kernel calls only functions of its own file: numba's cache notices a change of that file, not of another.

The client is installed without numba. Of the kernels it needs those that read and write an RLE, which are as right, and
quick enough for it, as the plain Python that they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

try:
    from numba import njit
except ModuleNotFoundError:  # serving and training bring it
    njit = None  # type: ignore[assignment]  # mypy sees an environment that has it

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled at its first call and kept in numba's cache for the next process.

    The cache lies in `NUMBA_CACHE_DIR`, in `__pycache__` beside the file, or in the user's cache folder: the first that
    can be written. Where none can (a read-only container), every process compiles for itself. Without numba it is
    `function` itself.
    """
    if njit is None:
        return function
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        compiled = njit(nogil=True)(function)
    return cast("Callable[P, R]", compiled)
