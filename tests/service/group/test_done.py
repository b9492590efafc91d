"""What a member that is started again has to do: as much as makes it as the others are, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.group.done import Change, Done

RENEW, UNLOAD = ("renew", "a", None), ("unload", "a", 2)


def promote(version: int, name: str = "a") -> Change:
    return ("promote", name, version)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([RENEW, promote(1), RENEW], [promote(1), RENEW], id="the last of equal ones"),
        pytest.param([promote(1), promote(2), promote(3)], [promote(3)], id="one version answers"),
        pytest.param([promote(1), ("unpin", "a")], [("unpin", "a")], id="the newest answers"),
        pytest.param([promote(1), promote(1, "b"), promote(2)], [promote(1, "b"), promote(2)], id="of each model"),
        pytest.param(
            [UNLOAD, promote(1), promote(2)], [UNLOAD, promote(1), promote(2)], id="each brings a version back"
        ),
        pytest.param(
            [("unload", "b", None), promote(1), promote(2)], [("unload", "b", None), promote(2)], id="of another model"
        ),
    ],
)
def test_what_is_left_to_do(changes: Sequence[Change], left: Sequence[Change]) -> None:
    done = Done()
    for change in changes:
        done.add(change)
    assert [*done] == left
    assert len(done) == len(left)
