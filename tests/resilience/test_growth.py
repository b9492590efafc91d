"""What measures growth tells a leak from what an allocator keeps for a while."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.resilience.growth.__main__ import KINDS, hour, main
from tests.resilience.growth.fitting import BLOCK, Slope, are_enough, says, slope, together

EVENTS = np.arange(1, 301)
MOST = 16.0
"""kB each: 1 MB an hour of 60."""


def kept(sigma: float, memory: float, seed: int) -> NDArray[np.float64]:
    """Noise [300] in kB of which so large a part is as it was the look before; `sigma` is its standard deviation."""
    draw = np.random.default_rng(seed).normal(0, sigma, 300)
    for before, now in pairwise(range(300)):
        draw[now] = memory * draw[before] + np.sqrt(1 - memory**2) * draw[now]
    return draw


def filling() -> NDArray[np.float64]:
    """Caches, full after a third [300] in kB."""
    return 200e3 * (1 - np.exp(-EVENTS / 12))


@pytest.mark.parametrize(
    ("figures", "said", "each"),
    [
        pytest.param(filling(), "steady", 0, id="caches that fill at first"),
        pytest.param(filling() + kept(500, 0.5, 1), "steady", 0, id="and a little noise"),
        pytest.param(filling() + kept(30e3, 0.9, 5), "undecided", 0, id="as much noise as in an hour's soak"),
        pytest.param(filling() + 40 * EVENTS + kept(500, 0.5, 3), "growing", 40, id="a leak"),
        pytest.param(40 * EVENTS + 5e3 * (EVENTS % BLOCK), "growing", 40, id="what comes and goes is not counted"),
        pytest.param(5e3 * (EVENTS > 200), "undecided", None, id="a single step may be anything"),
        pytest.param(-40 * EVENTS + kept(500, 0.5, 4), "steady", -40, id="less and less"),
        pytest.param(np.full(300, 7e5), "steady", 0, id="nothing at all"),
    ],
)
def test_a_leak_is_told_from_noise(figures: NDArray[np.float64], said: str, each: float | None) -> None:
    found = slope(EVENTS, figures)
    assert says(found, MOST) == said
    if each is not None:
        assert found.at_least - 0.5 <= each <= found.at_most + 0.5


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97])
def test_the_interval_holds_what_it_says_however_long_noise_lasts(memory: float) -> None:
    """At least 90 of 100 times; the correlation itself is known but from the looks."""
    held = 0
    for seed in range(200):
        found = slope(EVENTS, 25 * EVENTS + kept(20e3, memory, seed))
        held += found.at_least <= 25 <= found.at_most
    assert held >= 180


def test_too_few_looks_are_refused() -> None:
    with pytest.raises(ValueError, match="2 blocks of 5 looks are left"):
        slope(EVENTS[:20], EVENTS[:20])
    for looks in range(1, 40):
        if are_enough(looks):
            slope(EVENTS[:looks], EVENTS[:looks])
        else:
            with pytest.raises(ValueError, match="at least 3 are wanted"):
                slope(EVENTS[:looks], EVENTS[:looks])


def test_a_scale_that_leaves_too_few_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["growth", "--only", "tiled", "--scale", "0.1"])
    with pytest.raises(SystemExit):
        main()
    assert "--scale 0.1 leaves too few looks at tiled" in capsys.readouterr().err


def test_kinds_add_up_to_an_hour() -> None:
    found = together({"a": Slope(2.0, 0.3), "b": Slope(-1.0, 0.4)}, {"a": 10, "b": 10, "c": 5})
    assert (found.each, found.within) == (10.0, 5.0)
    assert hour({kind.name: Slope(1e6 / kind.hourly, 0) for kind in KINDS}).each == pytest.approx(len(KINDS))


def test_every_kind_is_looked_at_often_enough() -> None:
    for kind in KINDS:
        assert kind.events % kind.between == 0
        assert kind.events // kind.between >= 100
