"""Where the engine's graphs run: a GPU, which records and replays them, or the CPU, on which nothing is recorded."""

from __future__ import annotations

import gc
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, Protocol

import torch
from torch import Tensor

from model.runtime.engines.engine import EngineError, OutOfMemory
from model.runtime.images.picture import Size

WARM_UP_RUNS: Final = 3
"""Before a capture: libraries choose their kernels and take their memory in the first runs, which a capture forbids."""
CAPTURE_SHARE: Final = 0.4
"""Of a GPU's memory, for all captured graphs of an engine."""
SHORT_MEMORY: Final = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""In errors of libraries that take memory by themselves, as cuBLAS does for its handle."""
FREEING_SECONDS: Final = 10.0
"""Longer than a capture takes."""

_freeing = threading.Lock()
"""Held by who captures, and by who gives memory back: torch frees that of all GPUs at once, and refuses to beside a
capture on any of them."""
_overdue = threading.Event()
"""Whether it was waited for in vain: a GPU that hangs in a capture holds it for ever. Then nobody waits any more."""
_locks: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
"""By GPU. While one thread captures no other may take memory there: what it takes would be the graph's, or be missed by
it. Only waiting for the GPU needs no turn."""


class Capture(Protocol):
    """A computation that can be repeated. `output` is overwritten each time; `bytes` is what the memory that it shares
    with others has grown by."""

    output: Tensor
    bytes: int

    def replay(self) -> None:
        """Compute it again, from what its inputs hold now."""

    def free(self) -> None:
        """Free its memory, once what was begun with it has ended."""


class Place(Protocol):
    """Where graphs run. What is begun in a turn is computed in the order in which it was begun, whoever begins it."""

    device: torch.device
    name: str
    captures: bool
    pinned: bool
    capture_bytes: int

    def turn(self) -> AbstractContextManager[None]:
        """To be held while anything is begun. One thread has it at a time; it may take it again."""

    def mark(self) -> Callable[[], None]:
        """A function that waits for what was begun in this turn and before. It needs no turn and releases the GIL."""

    def capture(self, run: Callable[[], Tensor], beside: Callable[[], Capture | None]) -> Capture:
        """Record `run`, which must give the same kernels every time. `beside` gives another capture that is kept at
        that moment, whose memory it may share."""

    def tidy(self) -> None:
        """Give memory that nothing uses back."""

    def why_lost(self) -> str:
        """Why nothing more can be computed there by this process, after something has failed; empty if it can."""


class Host:
    """The CPU."""

    device, name, captures, pinned, capture_bytes = torch.device("cpu"), "cpu", False, False, 0

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def turn(self) -> AbstractContextManager[None]:
        return self._held()

    def mark(self) -> Callable[[], None]:
        return lambda: None

    def capture(self, run: Callable[[], Tensor], beside: Callable[[], Capture | None]) -> Capture:
        raise RuntimeError("only a GPU can capture")

    def tidy(self) -> None:
        pass

    def why_lost(self) -> str:
        return ""

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            yield


class Gpu:
    """One GPU, with a stream of its own: never the default one, on which no graph can be captured."""

    captures, pinned = True, True

    def __init__(self, index: int, name: str) -> None:
        self.device, self.name = torch.device("cuda", index), name
        self.capture_bytes = int(CAPTURE_SHARE * torch.cuda.get_device_properties(index).total_memory)
        self._lock = _locks[index]
        self._stream = torch.cuda.Stream(self.device)
        # What was begun before, such as weights on their way there, is done before anything here.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def turn(self) -> AbstractContextManager[None]:
        return self._held()

    @contextmanager
    def _held(self) -> Iterator[None]:
        # Device and stream are the thread's own: a pool's thread begins on GPU 0 and its default stream.
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self._stream), telling_short_memory():
            yield

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event(blocking=True)  # sleeps: the cores are for decoding
        event.record(self._stream)
        wait: Callable[[], None] = event.synchronize
        return wait

    def capture(self, run: Callable[[], Tensor], beside: Callable[[], Capture | None]) -> Capture:
        """In turns of its own, so that answers go on between the runs that warm it up."""
        for _ in range(WARM_UP_RUNS):
            with self.turn():
                run()
        with self.turn():
            other = beside()
            assert other is None or isinstance(other, _Recorded)
            pool = None if other is None else other.graph.pool()
            before = torch.cuda.memory_reserved(self.device)
            graph = torch.cuda.CUDAGraph()
            with _nothing_else_frees() as alone, _without_collection():
                if not alone:
                    raise EngineError(f"another GPU than {self.name} is being captured on for too long, and may hang")
                # Not `torch.cuda.graph`, which waits for the GPU and gives all free memory back before it begins.
                # Another engine's thread may go on using the GPU, hence the mode.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    output = run()
                except BaseException:
                    with suppress(RuntimeError):  # what went wrong is why, and not that the capture is none
                        graph.capture_end()
                    raise
                graph.capture_end()
            return _Recorded(graph, output, torch.cuda.memory_reserved(self.device) - before, self._stream)

    def tidy(self) -> None:
        """To be called without a turn. Nothing where another GPU hangs in a capture."""
        with _nothing_else_frees() as alone:
            if alone:
                torch.cuda.empty_cache()

    def why_lost(self) -> str:
        """Some errors (an illegal address, uncorrectable ECC, a launch that failed) leave the process's context such
        that every later call fails too, and others do not. So it is asked again, and not told from the error's words.
        """
        try:
            with self.turn():
                torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            return str(error).partition("\n")[0]
        return ""


class _Recorded:
    """A CUDA graph. Graphs share a pool of memory: they are replayed one after the other, on one stream, and each one's
    output is copied out before the next begins. An output is not another graph's scratch memory, for it is held."""

    def __init__(self, graph: torch.cuda.CUDAGraph, output: Tensor, size: int, stream: torch.cuda.Stream) -> None:
        self.graph, self.output, self.bytes = graph, output, max(0, size)
        self._stream = stream

    def replay(self) -> None:
        self.graph.replay()

    def free(self) -> None:
        self._stream.synchronize()
        self.graph.reset()


@contextmanager
def _nothing_else_frees() -> Iterator[bool]:
    """Whether `_freeing` is had inside; it is waited for no longer than a capture takes, and that once."""
    alone = _freeing.acquire(timeout=0 if _overdue.is_set() else FREEING_SECONDS)
    if not alone:
        _overdue.set()
        yield False
        return
    _overdue.clear()
    try:
        yield True
    finally:
        _freeing.release()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Garbage that holds GPU memory would be freed in the middle of a capture, which ends it. Inside of
    `_nothing_else_frees`: the collector is the whole process's, and another GPU may be captured on at the same time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def telling_short_memory() -> Iterator[None]:
    """Raises torch.OutOfMemoryError in place of what torch makes of a library's own words for it."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(words in str(error) for words in SHORT_MEMORY):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def too_much(count: int, size: Size, device: str) -> OutOfMemory:
    """That `count` images of this bucket do not fit."""
    height, width = size
    images = "an image" if count == 1 else f"a batch of {count}"
    return OutOfMemory(f"{images} of {height}x{width} does not fit into the memory of {device}")
