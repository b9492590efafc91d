"""Memory of the engine around a graph: what captures may take, and what becomes of a batch where it is short."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from model.runtime.engines.engine import EngineError, OutOfMemory
from tests.model.network.serving.answering import (
    BUCKETS,
    KnownExactly,
    Recorder,
    ask,
    image,
    known_answers,
    known_engine,
)


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
    assert [one.replays for one in place.captured] == [3], "when it was captured, and for each image"


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


@pytest.mark.parametrize("every_bucket", [False, True], ids=["the commonest", "all"])
def test_where_not_all_that_is_prepared_fits_the_commonest_stays(helpers: Any, every_bucket: bool) -> None:
    place = Recorder(capture_bytes=1_500_000, size=1_000_000)
    engine = known_engine(helpers, place, batch_size=2, buckets=BUCKETS, eager_meanwhile=True)
    assert engine.prepare(every_bucket) == BUCKETS.commonest[0]
    assert engine.captured == 1 < len(BUCKETS.commonest)
    assert (2, *BUCKETS.commonest[0], 3) in engine._captures
