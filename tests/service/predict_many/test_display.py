"""How far a run is: lines in a log, a bar on a terminal."""

from __future__ import annotations

import re

import pytest

from service.predict_many import display
from service.predict_many.display import Display


def shown(capsys: pytest.CaptureFixture[str], *, quiet: bool = False) -> str:
    with Display(10, 4, quiet=quiet) as found:
        for number in range(6):
            found.advance(failed=number == 1)
    return capsys.readouterr().err


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(capsys) == "", "it was over before the first was due"
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    lines = shown(capsys).splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"maskserve: 5 of 10 images, \d+\.\d/s, 0:00:00 left", lines[0])
    assert re.fullmatch(r"maskserve: 10 of 10 images, \d+\.\d/s, 0:00:00 left, 1 failed", lines[-1])
    assert shown(capsys, quiet=True) == ""


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown(capsys))
    assert re.search(r"images .*10/10 \d+\.\d/s, 0:00:00 left, 1 failed", said)
    assert shown(capsys, quiet=True) == ""


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028"])
def test_what_is_said_is_one_line(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Though a file may be called so."""
    display.say(f"a{end}b.png cannot be read")
    assert capsys.readouterr().err == "maskserve: a b.png cannot be read\n"
