"""Bars where stderr is no terminal: lines, few of them."""

import pytest

import training.progress
from training.progress import Display, duration


def test_a_long_task_leaves_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training.progress, "PLAIN_SECONDS", 0.0)
    with Display() as display, display.bar("validating", 3) as done:
        for number in (1, 2, 3):
            done(number)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["validating: 1/3", "validating: 2/3"]
    assert all(line.endswith(" left") for line in lines)


def test_a_short_task_leaves_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        with display.bar("validating", 3) as done:
            for number in (1, 2, 3):
                done(number)
        display.say("a line with [brackets]")
    assert capsys.readouterr().err == "a line with [brackets]\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3909, "1:05:09"), (90_000, "1 day, 1:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
