"""The contenders that encode masks: they must give the same before anything is timed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import benchmarks.masks
from benchmarks.masks import agreement, ours, smooth_case, torchvision_and_pycocotools

SIZE = 60, 90


@pytest.mark.parametrize("at_once", [1, 3, 7], ids="{} at once".format)
def test_pasting_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    case = smooth_case(7, SIZE)
    expected = torchvision_and_pycocotools(case)()
    monkeypatch.setattr(benchmarks.masks, "PASTED_BYTES", at_once * 4 * SIZE[0] * SIZE[1])
    assert torchvision_and_pycocotools(case)() == expected
    assert len(set(expected)) == 7


@pytest.mark.parametrize("threads", [1, 2])
def test_ours_gives_the_same_strings(threads: int) -> None:
    case = smooth_case(7, SIZE)
    with ThreadPoolExecutor(threads) as pool:
        found = agreement(ours(case, pool, threads)(), torchvision_and_pycocotools(case)(), SIZE)
    assert (found.identical_share, found.smallest_iou) == (1, 1)


def test_a_difference_is_seen() -> None:
    case, other = smooth_case(7, SIZE), smooth_case(7, SIZE, seed=1)
    found = agreement(torchvision_and_pycocotools(case)(), torchvision_and_pycocotools(other)(), SIZE)
    assert found.identical_share == 0
    assert found.smallest_iou < 0.5
