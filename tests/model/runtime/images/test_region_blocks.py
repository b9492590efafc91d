"""Blocks of a picture that is read part by part: decoded once, for all threads, and few kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from model.runtime.images import regions
from model.runtime.images.picture import Picture
from model.runtime.images.regions import Part, PictureByRegion


def test_threads_that_want_one_block_decode_it_once() -> None:
    decoded: list[Part] = []
    together = Barrier(4)

    def decode(part: Part) -> Picture:
        decoded.append(part)
        return Picture(np.full((part.height, part.width), part.top, np.uint8))

    opened = PictureByRegion((100, 100), (50, 100), decode)

    def read() -> int:
        together.wait()
        return int(opened.read(60, 0, 10, 10).values[0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert [one.result() for one in [pool.submit(read) for _ in range(4)]] == [50] * 4
    assert decoded == [Part(0, 0, 50, 100), Part(50, 0, 50, 100)]


def test_rows_of_parts_decode_a_block_once_and_keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Part] = []

    def decode(part: Part) -> Picture:
        decoded.append(part)
        return Picture(np.zeros((part.height, part.width), np.uint8))

    monkeypatch.setattr(regions, "KEPT", 2 * 10 * 200)
    opened = PictureByRegion((200, 200), (10, 10), decode)
    for top in range(0, 190, 9):
        for left in range(0, 190, 9):
            opened.read(top, left, 11, 11)
    assert len(decoded) == len(set(decoded)) == 20 * 20
    opened.read(0, 0, 1, 1)
    assert decoded[-1] == Part(0, 0, 10, 10)
    assert len(decoded) == 20 * 20 + 1
