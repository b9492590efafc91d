"""Damaged files of every accepted format: a picture that others see too, or an error that says why."""

from __future__ import annotations

from tests.resilience.hostile import MEGABYTES, read_all
from tests.resilience.samples import samples

COUNT = 400


def test_each_is_refused_or_is_the_picture_that_others_see() -> None:
    formats = set()
    for file, opinion, finding in read_all(range(COUNT)):
        assert not finding, f"{file.story}: {finding}"
        assert opinion.megabytes < MEGABYTES, file.story
        formats.add(file.format)
    assert formats == {format for format, _ in samples().values()}
