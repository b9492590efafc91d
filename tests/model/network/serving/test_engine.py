"""The engine around a graph: filled up batches, captures and what goes without, answers computed once more, memory."""

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
from model.runtime.buckets import Buckets
from model.runtime.engines.engine import DeviceLost, EngineError, OutOfMemory, OverlappingEngine
from model.runtime.predict import warm_up
from model.runtime.preprocess import Preprocessing
from tests.model.network.serving.answering import KnownExactly, Recorder, image, known_answers, known_engine
from tests.patience import PATIENCE

SEEN = Preprocessing(min_size=64, max_size=128)
BUCKETS = Buckets(SEEN)
"""Sides of 32, 64, 96 and 128 pixels."""


def ask(engine: StaticEngine, *images: np.ndarray, threshold: float = 0.0) -> list[tuple[float, list[float]]]:
    """Score and (width, height) of the object in each image."""
    sizes = np.array([each.shape[:2] for each in images], np.int64)
    raw = engine.submit(images, sizes, np.full(len(images), threshold, np.float32)).result()
    found = [raw.of_image(index) for index in range(len(images))]
    return [
        (round(float(one.scores[0]), 3), one.boxes[0, 2:].tolist()) if len(one.scores) else (0, []) for one in found
    ]


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
    assert [one.replays for one in place.captured] == [1]
    engine.close()
    assert place.captured[0].is_free
    with pytest.raises(EngineError, match="closed"):
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


def test_captures_not_used_for_longest_go_when_their_bytes_are_too_many(helpers: Any) -> None:
    inputs = 2 * (64 * 128 * 3 + 2 * 8 + 4 + 2 * 8)  # bytes of the largest
    place = Recorder(capture_bytes=2 * (1000 + inputs), size=1000)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS)
    for width in (64, 96, 64, 128):  # the last is one too many, and 96 was not used for longest
        assert ask(engine, image(64, width, 51)) == [(0.2, [float(width), 64.0])]
    assert [one.is_free for one in place.captured] == [False, True, False]
    assert ask(engine, image(64, 96, 102)) == [(0.4, [96.0, 64.0])]
    assert [one.is_free for one in place.captured] == [True, True, False, False]


def test_one_capture_is_kept_however_large(helpers: Any) -> None:
    place = Recorder(capture_bytes=10, size=1000)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS)
    for _ in range(2):
        ask(engine, image(64, 96, 51))
    assert [one.replays for one in place.captured] == [2]


def test_a_pool_of_memory_that_has_grown_too_large_is_left_by_all_and_begun_anew(helpers: Any) -> None:
    """What evicted ones held stays in it, so that evicting alone does not make it smaller."""
    inputs = 2 * (64 * 128 * 3 + 2 * 8 + 4 + 2 * 8)  # bytes of the largest
    place = Recorder(capture_bytes=2_500_000, size=1_000_000)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS)
    for width in (64, 96, 128, 128):  # the third makes the pool larger than all may be
        assert ask(engine, image(64, width, 51)) == [(0.2, [float(width), 64.0])]
    assert [one.is_free for one in place.captured] == [True, True, True, False]
    assert engine._captures.bytes == 1_000_000 + inputs
    assert place.tidied == 1
    assert ask(engine, image(64, 96, 102)) == [(0.4, [96.0, 64.0])]
    assert [one.is_free for one in place.captured] == [True, True, True, False, False]
    assert engine._captures.bytes <= place.capture_bytes


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


class Hungry(KnownExactly):
    """The first times there is no memory."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.times -= 1
        if self.times >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(*inputs)


def test_what_is_computed_once_more_gets_the_memory_of_captured_graphs(
    helpers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    place = Recorder()
    engine = known_engine(helpers, place, batch_size=4, buckets=BUCKETS, exact=Hungry(1))
    assert ask(engine, image(64, 96, 51), image(64, 96, 102, green=1)) == [(0.2, [96.0, 64.0]), (0.2, [0.0, 0.0])]
    assert [one.is_free for one in place.captured] == [True]
    assert "cpu has no memory to compute an image once more: captured graphs are freed" in caplog.text
    assert ask(engine, image(64, 96, 102, green=1)) == [(0.2, [0.0, 0.0])]
    assert [one.is_free for one in place.captured] == [True, False]


def test_what_cannot_be_computed_once_more_fails_alone_and_leaves_batches_as_large(helpers: Any) -> None:
    engine = known_engine(helpers, Recorder(), batch_size=4, buckets=BUCKETS, exact=Hungry(1000))
    with pytest.raises(EngineError, match="an image of 64x96 does not fit into the memory of cpu") as raised:
        ask(engine, image(64, 96, 51), image(64, 96, 102, green=1))
    assert not isinstance(raised.value, OutOfMemory), "the batcher would make batches smaller, for nothing"
    with pytest.raises(OutOfMemory, match="an image of 64x96 does not fit"):
        ask(engine, image(64, 96, 102, green=1))
    assert ask(engine, *[image(64, 96, 51)] * 4) == [(0.2, [96.0, 64.0])] * 4


def test_a_capture_that_fails_late_makes_no_batch_larger_again(helpers: Any) -> None:
    engine = known_engine(helpers, Recorder(), batch_size=8, buckets=BUCKETS)
    for images in (8, 4, 8):
        assert str(engine._out_of_memory((images, 64, 96, 3))).startswith(f"a batch of {images} of 64x96")
    assert engine.batch_of((64, 96)) == 2


def test_short_memory_makes_a_buckets_batches_smaller_until_one_fits(helpers: Any) -> None:
    def hungry(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs[0]) * inputs[0].shape[2] > 2 * 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known_answers(*inputs)

    engine = known_engine(helpers, Recorder(), batch_size=8, buckets=BUCKETS, forward=hungry)
    wide = [image(64, 128, 51)] * 8
    with pytest.raises(OutOfMemory, match="a batch of 8 of 64x128 does not fit into the memory of cpu"):
        ask(engine, *wide)
    with pytest.raises(OutOfMemory, match="a batch of 8"):  # given to it before the batcher knew
        ask(engine, *wide)
    with pytest.raises(OutOfMemory, match="a batch of 4"):
        ask(engine, *wide[:4])
    assert ask(engine, *wide[:2]) == [(0.2, [128.0, 64.0])] * 2
    assert (engine.batch_of((64, 128)), engine.batch_of((64, 64))) == (2, 8)
    engine.prepare(every_bucket=True)
    assert engine.batch_of((64, 64)) == 4


def test_memory_is_given_back_out_of_the_turn_in_which_it_was_short(
    helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be waited for while another GPU is captured on, and others have something to begin meanwhile."""

    def hungry(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    place, others = Recorder(), []

    def tidy() -> None:
        def begin() -> None:
            if place._lock.acquire(blocking=False):
                others.append("a turn")
                place._lock.release()

        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()

    monkeypatch.setattr(place, "tidy", tidy)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, capture=False, forward=hungry)
    with pytest.raises(OutOfMemory, match="a batch of 2"):
        ask(engine, image(64, 96, 51), image(64, 96, 51))
    assert others == ["a turn"]


def test_short_memory_for_what_a_capture_reads_makes_batches_smaller_too(
    helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = torch.zeros

    def short(shape: Any, *more: Any, **options: Any) -> torch.Tensor:
        if options.get("dtype") is torch.uint8 and shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(shape, *more, **options)

    monkeypatch.setattr(torch, "zeros", short)
    engine = known_engine(helpers, Recorder(), batch_size=8, buckets=BUCKETS)
    engine.prepare(every_bucket=False)
    assert engine.batch_of(BUCKETS.commonest[0]) == 2


def test_one_image_is_not_refused_for_the_empty_places_of_its_batch(helpers: Any) -> None:
    def hungry(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known_answers(*inputs)

    for capture in (True, False):
        options = {"batch_size": 8, "buckets": BUCKETS, "forward": hungry, "capture": capture}
        engine = known_engine(helpers, Recorder(), **options)
        assert ask(engine, image(64, 96, 51)) == [(0.2, [96.0, 64.0])]
        assert (engine.batch_of((64, 96)), engine.batch_of((64, 64))) == (2, 8)


def test_an_image_that_alone_does_not_fit_is_an_error_of_its_own(helpers: Any) -> None:
    def hungry(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = known_engine(helpers, Recorder(), batch_size=1, buckets=BUCKETS, capture=False, forward=hungry)
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="an image of 64x96 does not fit"):
            ask(engine, image(64, 96, 51))
    with pytest.raises(OutOfMemory):
        engine.prepare(every_bucket=False)


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


@pytest.mark.parametrize("every_bucket", [False, True], ids=["the commonest", "all"])
def test_where_not_all_that_is_prepared_fits_the_commonest_stays(helpers: Any, every_bucket: bool) -> None:
    place = Recorder(capture_bytes=1_500_000, size=1_000_000)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    assert engine.prepare(every_bucket) == BUCKETS.commonest[0]
    assert engine.captured == 1 < len(BUCKETS.commonest)
    assert (2, *BUCKETS.commonest[0], 3) in engine._captures


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
