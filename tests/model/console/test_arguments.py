"""How every command reads its arguments."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from model.console.arguments import EMPTY, Parser, did_you_mean, number, spelled, unknown_flag, whole

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
    "arguments",
    [
        pytest.param(["", "--output=x"], id="a name"),
        pytest.param(["a", ""], id="one of several"),
        pytest.param(["a", "--output="], id="a path, joined"),
        pytest.param(["a", "--output", ""], id="a path"),
        pytest.param(["a", "--files", "b", ""], id="one of a flag's paths"),
    ],
)
def test_an_empty_word_is_no_path(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="maskserve x")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--files", type=Path, nargs="+")
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert EMPTY in line


@pytest.mark.parametrize(
    ("convert", "text", "expected"),
    [
        pytest.param(whole(1), "3", 3, id="whole"),
        pytest.param(whole(0), "0", 0, id="the least"),
        pytest.param(whole(1), "0", "0 is too few; give 1 or more", id="too few"),
        pytest.param(whole(1), "-5", "-5 is too few; give 1 or more", id="negative"),
        pytest.param(whole(1), "2.5", "'2.5' is not a whole number; give 1 or more", id="not whole"),
        pytest.param(number(0, 1), "0.5", 0.5, id="in between"),
        pytest.param(number(0, 1), "1.5", "give from 0 to 1", id="too much"),
        pytest.param(number(0), "-1", "give 0 or more", id="too little"),
        pytest.param(number(0), "inf", "give 0 or more", id="infinite"),
        pytest.param(number(0, above=True), "0", "give more than 0", id="not above"),
        pytest.param(number(0, above=True), "nan", "give more than 0", id="not a number"),
        pytest.param(number(0, above=True), "x", "give more than 0", id="a word"),
    ],
)
def test_numbers_say_their_range(convert: Callable[[str], float], text: str, expected: float | str) -> None:
    if not isinstance(expected, str):
        assert convert(text) == expected
        return
    with pytest.raises(ArgumentTypeError, match=re.escape(expected)):
        convert(text)
