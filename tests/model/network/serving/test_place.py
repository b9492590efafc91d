"""A GPU's part, on stand-ins for what torch has for GPUs: where work is begun, and what a capture that fails says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.network.serving import place as places
from model.network.serving.place import Gpu
from model.runtime.engines.engine import EngineError
from tests.patience import PATIENCE

RESERVED = {0: 5000, 3: 100}
"""Bytes, by GPU."""


class Cuda:
    """What torch.cuda is told. `device` and `stream` are the thread's own, as there."""

    def __init__(self) -> None:
        self.own = threading.local()
        self.captured: list[tuple[int, object, object]] = []
        self.ends: Callable[[], None] = lambda: None
        self.reserved = dict(RESERVED)
        self.underway = 0
        self.emptied: list[int] = []
        """Captures that were under way when memory was given back."""
        self.waited: list[tuple[str, int]] = []
        """Streams that an engine's own was told to wait for."""

    @property
    def current(self) -> tuple[int, object]:
        return getattr(self.own, "device", 0), getattr(self.own, "stream", None)

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.own.device = self.current[0], device.index
        yield
        self.own.device = before

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before, self.own.stream = self.current[1], stream
        yield
        self.own.stream = before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    told = Cuda()

    class Graph:
        def capture_begin(self, pool: object, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local", "others go on"
            told.captured.append((*told.current, pool))
            told.underway += 1

        def capture_end(self) -> None:
            told.underway -= 1
            told.ends()

        def pool(self) -> object:
            return "the pool"

    stand_ins: dict[str, Any] = {
        "get_device_properties": lambda index: SimpleNamespace(total_memory=1000 * (index + 1)),
        "Stream": lambda device: SimpleNamespace(device=device, wait_stream=told.waited.append),
        "current_stream": lambda device: ("current", device.index),
        "device": told.device,
        "stream": told.stream,
        "memory_reserved": lambda device: told.reserved[device.index],
        "CUDAGraph": Graph,
        "empty_cache": lambda: told.emptied.append(told.underway),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    places._overdue.clear()
    yield told
    places._overdue.clear()


def test_what_is_begun_in_a_turn_is_begun_on_its_gpu_by_any_thread(cuda: Cuda) -> None:
    place = Gpu(3, "cuda:3")
    assert (place.device, place.name, place.capture_bytes) == (torch.device("cuda", 3), "cuda:3", 1600)
    assert cuda.waited == [("current", 3)], "what the caller has begun, such as weights on their way"
    seen: list[tuple[int, object]] = []

    def begin() -> None:
        with place.turn():
            seen.append(cuda.current)
        seen.append(cuda.current)

    begin()
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert [device for device, _ in seen] == [3, 0, 3, 0]
    assert seen[0][1] is seen[2][1]
    assert seen[1][1] is seen[3][1] is None


def test_a_capture_is_warmed_up_and_costs_what_its_gpu_has_given(cuda: Cuda) -> None:
    place, runs = Gpu(3, "cuda:3"), [0]

    def run() -> torch.Tensor:
        runs[0] += 1
        assert cuda.current[0] == 3
        cuda.reserved[3] += 7
        return torch.zeros(1)

    first = place.capture(run, lambda: None)
    second = place.capture(run, lambda: first)
    assert runs == [8]
    assert (first.bytes, second.bytes) == (7, 7), "what the runs before took is everybody's"
    assert [(device, pool) for device, _, pool in cuda.captured] == [(3, None), (3, "the pool")]


def test_memory_is_given_back_while_nothing_is_captured_on_any_gpu(cuda: Cuda) -> None:
    """Torch gives back what it has of all of them, and fails beside a capture."""
    began, go_on = threading.Event(), threading.Event()

    def run() -> torch.Tensor:
        if cuda.underway:
            began.set()
            assert go_on.wait(PATIENCE)
        return torch.zeros(1)

    capturing = threading.Thread(target=Gpu(3, "cuda:3").capture, args=(run, lambda: None))
    capturing.start()
    assert began.wait(PATIENCE)
    tidying = threading.Thread(target=Gpu(0, "cuda:0").tidy)
    tidying.start()
    tidying.join(0.1)
    go_on.set()
    for thread in (capturing, tidying):
        thread.join(PATIENCE)
    assert cuda.emptied == [0]


def test_short_memory_in_a_capture_is_told_and_not_that_the_capture_is_none(cuda: Cuda) -> None:
    def end() -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def run() -> torch.Tensor:
        if cuda.captured:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(1)

    cuda.ends = end
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        Gpu(3, "cuda:3").capture(run, lambda: None)
    cuda.captured.clear()
    with pytest.raises(RuntimeError, match="operation failed"):
        Gpu(3, "cuda:3").capture(lambda: torch.zeros(1), lambda: None)


def test_a_gpu_is_lost_where_it_fails_again_when_it_is_asked_in_its_turn(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, asked, errors = Gpu(3, "cuda:3"), [], ["", "CUDA error: unspecified launch failure\nlook elsewhere"]

    def synchronize(device: torch.device) -> None:
        asked.append((device.index, cuda.current[0]))
        if error := errors[len(asked) - 1]:
            raise RuntimeError(error)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert [place.why_lost() for _ in errors] == ["", "CUDA error: unspecified launch failure"]
    assert asked == [(3, 3)] * 2


def test_memory_is_given_back_without_a_turn_and_not_where_another_gpu_hangs(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = Gpu(0, "cuda:0"), Gpu(3, "cuda:3")
    monkeypatch.setattr(places, "FREEING_SECONDS", 0.01)
    tidying = threading.Thread(target=place.tidy, daemon=True)
    with place.turn():
        tidying.start()
        tidying.join(PATIENCE)
    assert cuda.emptied == [0]
    with places._freeing:  # by a GPU that hangs
        tidying = threading.Thread(target=other.tidy, daemon=True)
        tidying.start()
        tidying.join(PATIENCE)
        assert not tidying.is_alive()
    assert cuda.emptied == [0]


def test_a_gpu_that_hangs_in_a_capture_is_waited_for_once_by_all_others(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Held:
        """As a lock that nobody lets go of, or, at last, somebody does."""

        is_free = False

        def acquire(self, timeout: float) -> bool:
            waited.append(timeout)
            return self.is_free

        def release(self) -> None:
            pass

    held, place = Held(), Gpu(0, "cuda:0")
    monkeypatch.setattr(places, "_freeing", held)
    for _ in range(2):
        with pytest.raises(EngineError, match="another GPU than cuda:0 is being captured on for too long"):
            place.capture(lambda: torch.zeros(1), lambda: None)
        place.tidy()
    assert waited == [places.FREEING_SECONDS, 0, 0, 0]
    assert cuda.emptied == []
    assert cuda.captured == []
    held.is_free = True
    place.tidy()
    place.capture(lambda: torch.zeros(1), lambda: None)
    assert waited[4:] == [0, places.FREEING_SECONDS]
    assert (len(cuda.emptied), len(cuda.captured)) == (1, 1)


@pytest.mark.parametrize(
    ("said", "is_short"),
    [
        pytest.param("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True, id="cuBLAS"),
        pytest.param("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True, id="cuDNN"),
        pytest.param("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", False, id="another"),
    ],
)
def test_libraries_that_have_no_memory_are_told_from_those_that_fail(cuda: Cuda, said: str, is_short: bool) -> None:
    place = Gpu(3, "cuda:3")
    with pytest.raises(RuntimeError, match="STATUS") as raised, place.turn(), place.turn():
        raise RuntimeError(said)
    assert isinstance(raised.value, torch.OutOfMemoryError) is is_short
    assert str(raised.value) == said
