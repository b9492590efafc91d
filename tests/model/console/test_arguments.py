"""How every command reads its arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.console.arguments import (
    INTERRUPTED,
    Parser,
    did_you_mean,
    interruptible,
    spelled,
    unknown_flag,
    why_unwritable,
)

KNOWN = ("--max-detections", "--score_threshold", "--schedule.iterations", "--schedule.warmup", "--optimizer.name")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(["--max_detections", "3"], ["--max-detections", "3"], id="- where _ is given"),
        pytest.param(["--score-threshold=0.5"], ["--score_threshold=0.5"], id="_ where - is given, joined by ="),
        pytest.param(["--score_threshold=a_b-c"], ["--score_threshold=a_b-c"], id="a value is left as it is"),
        pytest.param(["my_file", "-"], ["my_file", "-"], id="no flag"),
        pytest.param(["--new-one"], ["--new-one"], id="unknown"),
        pytest.param(["--", "--max_detections"], ["--", "--max_detections"], id="after --, a file's name"),
    ],
)
def test_flags_are_understood_with_either_sign(given: list[str], expected: list[str]) -> None:
    assert spelled(given, KNOWN) == expected
    assert not unknown_flag(expected, [*KNOWN, "--new-one"])


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        pytest.param("--max-detection", "did you mean --max-detections?", id="a letter is missing"),
        pytest.param("--iterations", "did you mean --schedule.iterations?", id="its group is missing"),
        pytest.param("--optimizer.warmup=3", "did you mean --schedule.warmup?", id="of another group"),
        pytest.param("--scedule.itterations", "did you mean --schedule.iterations?", id="misspelled twice"),
        pytest.param("--zzz", "see --help", id="nothing like it"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest(flag: str, hint: str) -> None:
    assert unknown_flag(["x", flag], KNOWN) == f"there is no flag {flag.partition('=')[0]}; {hint}"


def test_a_word_that_is_near_nothing_gets_the_other_answer() -> None:
    assert did_you_mean("nuclie", ["shapes", "nuclei"]) == "did you mean nuclei?"
    assert did_you_mean("cars", ["shapes", "nuclei"], otherwise="there are two") == "there are two"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--modle", "x"], "there is no flag --modle; did you mean --model?", id="before a missing one"),
        pytest.param(["--mod", "x"], "there is no flag --mod; did you mean --model?", id="no abbreviations"),
        pytest.param(["--model", "x", "--engine", "onx"], "there is no 'onx'; did you mean onnx?", id="a choice"),
        pytest.param(["--model", "x", "--engine", "zzz"], "there is no 'zzz'; choose onnx, eager", id="far from all"),
        pytest.param(["--model", "x", "--engine"], "expected one argument", id="no value"),
        pytest.param([], "required: --model", id="nothing"),
    ],
)
def test_a_parser_says_what_is_wrong_on_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(prog="maskserve x")
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", choices=("onnx", "eager"))
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("maskserve x: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("place", "folder", "why"),
    [
        pytest.param("new", True, "", id="a folder that is not there yet"),
        pytest.param("new/below/it.json", False, "", id="a file in folders that are not there yet"),
        pytest.param("file", False, "", id="a file that is there"),
        pytest.param("there", True, "", id="a folder that is there"),
        pytest.param("file", True, "is a file", id="a file where a folder should be"),
        pytest.param("there", False, "is a folder", id="a folder where a file should be"),
        pytest.param("file/below", True, "cannot be written: Not a directory", id="below a file"),
        pytest.param("/proc/nothing", True, "cannot be written: ", id="a file system that takes nothing"),
        pytest.param("x" * 300, False, "cannot be written: File name too long", id="no name"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(place: str, folder: bool, why: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    said = why_unwritable(tmp_path / place, folder=folder)
    assert why in said
    assert bool(said) == bool(why)
    assert sorted(os.listdir(tmp_path)) == ["file", "there"], "nothing is left behind"
    assert (tmp_path / "file").read_text() == "kept"


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert interruptible(stopped) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert interruptible(lambda: 3) == 3
