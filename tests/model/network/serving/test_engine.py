"""The engine around a graph: filled up batches, captures and what goes without, answers computed once more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from model.network.graph.static import StaticGraph
from model.network.serving import engine as serving
from model.network.serving.engine import StaticEngine
from model.runtime.engines.engine import DeviceLost, EngineError, OverlappingEngine
from model.runtime.predict import warm_up
from tests.model.network.serving.answering import (
    BUCKETS,
    SEEN,
    KnownExactly,
    Recorder,
    Recording,
    ask,
    image,
    known_answers,
    known_engine,
)
from tests.patience import PATIENCE


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Released whenever a capture in the background has ended."""
    ended = threading.Semaphore(0)
    attempt = StaticEngine._try_to_capture

    def counted(self: StaticEngine, shape: tuple[int, ...]) -> None:
        attempt(self, shape)
        ended.release()

    monkeypatch.setattr(StaticEngine, "_try_to_capture", counted)
    return ended


def test_it_is_an_engine_that_is_given_batches_ahead(helpers: Any) -> None:
    assert isinstance(known_engine(helpers, Recorder()), OverlappingEngine)


def test_only_a_gpu_captures(helpers: Any) -> None:
    with pytest.raises(ValueError, match="only a GPU can capture"):
        StaticEngine(StaticGraph(helpers.detector(helpers.small)), capture=True)


def test_images_of_one_bucket_share_a_batch_that_is_filled_up(helpers: Any) -> None:
    shapes = set()

    def seen(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes.add(tuple(inputs[0].shape))
        return known_answers(*inputs)

    engine = known_engine(helpers, Recorder(), batch_size=4, buckets=BUCKETS, capture=False, forward=seen)
    assert ask(engine, image(64, 90, 255), image(60, 96, 51)) == [(1.0, [90.0, 64.0]), (0.2, [96.0, 60.0])]
    assert ask(engine, image(64, 96, 51), threshold=0.3) == [(0, [])]
    many = np.stack([image(64, 96, 25 * index) for index in range(1, 8)])
    raw = engine.run(many, np.array([[64, 96]] * 7), np.zeros(7, np.float32))
    assert raw.image_index.tolist() == list(range(7))
    np.testing.assert_allclose(raw.scores, [25 * index / 255 for index in range(1, 8)], rtol=1e-6)
    assert shapes == {(4, 64, 96, 3)}


def test_results_may_be_taken_while_other_batches_are_given(helpers: Any) -> None:
    """As on a GPU: each batch has host memory of its own until its result."""
    engine = known_engine(helpers, Recorder(), batch_size=2, buckets=BUCKETS)
    sizes, thresholds = np.array([[64, 96]]), np.zeros(1, np.float32)
    pending = [engine.submit([image(64, 96, red)], sizes, thresholds) for red in (51, 102, 153)]
    assert [round(float(one.result().scores[0]), 2) for one in pending] == [0.2, 0.4, 0.6]
    assert len(engine._free) == 3
    engine.submit([image(64, 96, 1)], sizes, thresholds).result()
    assert len(engine._free) == 3


def test_what_is_not_captured_yet_is_answered_meanwhile(helpers: Any, captured: threading.Semaphore) -> None:
    place = Recorder()
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    with place.turn():  # nothing can be captured meanwhile
        assert ask(engine, image(64, 96, 51)) == [(0.2, [96.0, 64.0])]
        assert place.captured == []
    assert captured.acquire(timeout=PATIENCE)
    assert ask(engine, image(64, 90, 102)) == [(0.4, [90.0, 64.0])]
    assert [one.replays for one in place.captured] == [2], "when it was captured, and for the second image"
    engine.close()
    assert place.captured[0].is_free
    with pytest.raises(EngineError, match="closed"):
        ask(engine, image(64, 96, 51))


class Stale(Recording):
    """Gives what was computed when it was captured."""

    def replay(self) -> None:
        pass


class Forgetful(Recorder):
    recording = Stale


def test_what_is_replayed_otherwise_is_answered_kernel_by_kernel(
    helpers: Any, captured: threading.Semaphore, caplog: pytest.LogCaptureFixture
) -> None:
    place = Forgetful()
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    assert ask(engine, image(64, 96, 51)) == [(0.2, [96.0, 64.0])]
    assert captured.acquire(timeout=PATIENCE)
    assert ask(engine, image(64, 96, 102)) == [(0.4, [96.0, 64.0])]
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "batches of 2 of 64x96 are not captured: on cpu a replayed batch of 2 of 64x96 is not what" in record.message
    assert engine.captured == 0
    assert [one.is_free for one in place.captured] == [True]


def test_where_a_capture_is_waited_for_and_answers_otherwise_that_is_raised(helpers: Any) -> None:
    engine = known_engine(helpers, Forgetful(), batch_size=2, buckets=BUCKETS)
    with pytest.raises(EngineError, match="one by one: 0% of an image's detections are the same; choose the onnx"):
        ask(engine, image(64, 96, 51))


def test_what_cannot_be_captured_is_answered_all_the_same(
    helpers: Any, captured: threading.Semaphore, caplog: pytest.LogCaptureFixture
) -> None:
    place = Recorder()
    place.error = RuntimeError("operation not permitted when stream is capturing")
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    for _ in range(2):
        assert ask(engine, image(64, 96, 51)) == [(0.2, [96.0, 64.0])]
    assert captured.acquire(timeout=PATIENCE)
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "batches of 2 of 64x96 are not captured: operation not permitted" in record.message


def test_before_the_first_answer_the_commonest_are_captured_or_all(helpers: Any) -> None:
    place = Recorder()
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    engine.prepare(every_bucket=False)
    assert len(place.captured) == len(BUCKETS.commonest) < len(BUCKETS.all)
    engine.prepare(every_bucket=True)
    assert len(place.captured) == len(BUCKETS.all)


def test_warming_up_captures_nothing_besides(helpers: Any) -> None:
    """What is rare would take time and memory from the first who ask."""
    engine = known_engine(helpers, Recorder(), batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    warm_up(engine, SEEN)
    assert len(engine._wanted) == engine.captured == len(BUCKETS.commonest)
    engine.close()


@pytest.mark.parametrize(
    ("green", "blue", "counts"),
    [
        pytest.param(1, 0, {"overflow": 0, "inexact": 1}, id="inexact"),
        pytest.param(0, 1, {"overflow": 1, "inexact": 0}, id="overflow"),
        pytest.param(1, 1, {"overflow": 1, "inexact": 0}, id="both"),
    ],
)
def test_what_may_be_wrong_is_computed_once_more_and_its_neighbors_are_not(
    helpers: Any, green: int, blue: int, counts: dict[str, int]
) -> None:
    engine = known_engine(helpers, Recorder(), batch_size=4, buckets=BUCKETS, exact=KnownExactly())
    raw = engine.submit(
        [image(64, 96, 51), image(64, 96, 102, green, blue), image(64, 96, 153)],
        np.array([[64, 96]] * 3),
        np.zeros(3, np.float32),
    ).result()
    np.testing.assert_allclose(raw.scores, [0.2, 0.2, 0.6], rtol=1e-6)
    assert raw.labels.tolist() == [1, 2, 1]
    assert raw.image_index.tolist() == [0, 1, 2]
    assert engine.answered_again == counts


def test_many_threads_ask_and_take_while_buckets_are_captured(helpers: Any) -> None:
    engine = known_engine(helpers, Recorder(), batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    wrong: list[Any] = []

    def asks(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(40):
            red, width = int(draw.integers(1, 256)), int(draw.integers(33, 129))
            if (found := ask(engine, image(64, width, red))) != [(round(red / 255, 3), [float(width), 64.0])]:
                wrong.append(found)

    threads = [threading.Thread(target=asks, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []
    engine.close()


def test_a_gpu_that_hangs_keeps_nobody_from_closing(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, freed = Recorder(), threading.Event()
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS)
    ask(engine, image(64, 96, 51))
    monkeypatch.setattr(place.captured[0], "free", lambda: freed.wait(PATIENCE))
    monkeypatch.setattr(serving, "CLOSE_SECONDS", 0.01)
    engine.close()
    assert not freed.is_set()
    freed.set()


def test_an_error_after_which_the_place_computes_nothing_is_told_from_one_of_the_batch(helpers: Any) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: it failed")

    place = Recorder()
    engine = known_engine(helpers, place, forward=fail, capture=False)
    with pytest.raises(RuntimeError, match=r"^CUDA error: it failed$") as told:
        ask(engine, image(32, 32, 255))
    assert not isinstance(told.value, EngineError)
    place.lost = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(DeviceLost, match="cpu computes nothing more for this process: CUDA error: an illegal memory"):
        ask(engine, image(32, 32, 255))


def test_what_is_raised_while_it_is_waited_for_may_be_a_loss_too(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        place.lost = "CUDA error: uncorrectable ECC error encountered"
        raise RuntimeError(place.lost)

    place = Recorder()
    monkeypatch.setattr(place, "mark", lambda: wait)
    with pytest.raises(DeviceLost, match="uncorrectable ECC"):
        ask(known_engine(helpers, place), image(32, 32, 255))


def test_an_engine_whose_place_is_lost_closes_in_silence(helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tidy() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    place = Recorder()
    monkeypatch.setattr(place, "tidy", tidy)
    known_engine(helpers, place).close()


def test_a_batch_that_comes_while_the_engine_is_closed_is_answered(helpers: Any) -> None:
    engine = known_engine(helpers, Recorder(), eager_meanwhile=True)
    engine._capturing.shutdown()  # `close` has come so far
    assert ask(engine, image(64, 96, 51)) == [(0.2, [96.0, 64.0])]


def test_a_capture_in_a_pool_that_all_others_have_left_is_made_anew(
    helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what they left in it nothing was counted."""
    place = Recorder()
    engine = known_engine(helpers, place)
    ask(engine, image(64, 96, 51))
    capture = place.capture

    def late(run: Any, beside: Any) -> Any:
        shares = beside()
        made = capture(run, beside)
        if shares is not None:
            engine._captures.clear()
        return made

    monkeypatch.setattr(place, "capture", late)
    assert ask(engine, image(64, 64, 51)) == [(0.2, [64.0, 64.0])]
    assert [one.is_free for one in place.captured] == [True, True, False]
    assert engine.captured == 1
