"""What a process that is started again may look at: what the others have seen, or else what is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from service.models.seen import limited, looking_within, read_versions, seen_by_this_task


@pytest.mark.parametrize(
    ("found", "seen", "left", "told"),
    [
        pytest.param({"a": (1, 2)}, None, {"a": (1, 2)}, [], id="everything"),
        pytest.param({"a": (1, 2)}, {"a": (1, 2)}, {"a": (1, 2)}, [], id="nothing new"),
        pytest.param({"a": (1, 2, 3)}, {"a": (1, 2)}, {"a": (1, 2)}, [], id="a new version"),
        pytest.param({"a": (2, 3)}, {"a": (1, 2)}, {"a": (2,)}, [], id="an old one is gone"),
        pytest.param({"a": (1,), "b": (1,)}, {"a": (1,)}, {"a": (1,)}, [], id="a new model"),
        pytest.param({"b": (1,)}, {"a": (1,), "b": (1,)}, {"b": (1,)}, [], id="a model is gone"),
        pytest.param({"a": (3,), "b": (1,)}, {"a": (1, 2), "b": (1,)}, {"a": (3,), "b": (1,)}, ["a"], id="none of a"),
        pytest.param({"b": (4,)}, {"a": (1,)}, {"b": (4,)}, ["a"], id="another model alone"),
        pytest.param({}, {"a": (1,)}, {}, [], id="nothing is there"),
    ],
)
def test_what_is_left_of_what_was_seen(
    found: Mapping[str, tuple[int, ...]],
    seen: Mapping[str, tuple[int, ...]] | None,
    left: Mapping[str, tuple[int, ...]],
    told: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert limited(found, seen) == left
    lines = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(" that")[0] for line in lines] == [f"the versions of {name}" for name in told]


def test_a_task_sees_no_more_and_another_does() -> None:
    found = {"a": (1, 2)}

    async def scenario() -> None:
        with looking_within({"a": (1,)}):
            other = asyncio.create_task(within(None))
            assert seen_by_this_task(found) == {"a": (1,)}
            assert await other == found
            assert seen_by_this_task(found) == {"a": (1,)}
        assert seen_by_this_task(found) == found

    async def within(seen: Mapping[str, tuple[int, ...]] | None) -> Mapping[str, tuple[int, ...]]:
        with looking_within(seen):
            return seen_by_this_task(found)

    asyncio.run(scenario())


def test_from_json() -> None:
    assert read_versions({"a": [1, 2]}) == {"a": (1, 2)}
    assert read_versions(None) is None
