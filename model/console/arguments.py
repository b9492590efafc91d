"""How every command reads its arguments, and says in one line what is wrong with them."""

from __future__ import annotations

import argparse
import difflib
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

EMPTY: Final = "an empty word was given: give a path or a name, or leave it out"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes flags with - and with _, and answers a wrong word with the nearest right one.

    Flags are never abbreviated. What is wrong is one line on stderr, with exit status 2. So is an empty word where a
    path or a name is wanted, as an unset variable of a shell gives it: Path("") is the current folder.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        if wrong := unknown_flag(args, self._option_string_actions):  # before something else is found to be missing
            self.error(wrong)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args(spelled(args, self._option_string_actions), namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse would pass over a stream that takes nothing

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string and action.type in (None, Path):
            raise argparse.ArgumentError(action, EMPTY)
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError:
            choices = [str(choice) for choice in action.choices or ()]
            hint = did_you_mean(str(value), choices, otherwise="")
            raise argparse.ArgumentError(
                action, f"there is no {value!r}; {hint or 'choose ' + ', '.join(choices)}"
            ) from None


def spelled(arguments: Iterable[str], known: Iterable[str]) -> list[str]:
    """The arguments with each flag written as in `known`, however its words were joined; none after a `--` is one."""
    names = {_joined(flag): flag for flag in known}
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return [_as_in(names, word) for word in words[:end]] + words[end:]


def unknown_flag(arguments: Iterable[str], known: Iterable[str]) -> str:
    """What to say about the first flag that is not in `known`; nothing where all are."""
    names = {_joined(flag): flag for flag in known if flag.startswith("--")}
    for word in arguments:
        if word == "--":
            break
        name = word.partition("=")[0]
        if name.startswith("--") and _joined(name) not in names:
            return f"there is no flag {name}; {nearest_flag(name, list(names.values()))}"
    return ""


def nearest_flag(name: str, known: Sequence[str]) -> str:
    """ "did you mean …?" for a flag or a key. Of a dotted one the last part is enough, alone or in another group."""
    last = _joined(name).lstrip("-").rpartition(".")[2]
    same = [flag for flag in known if "." in flag and _joined(flag).rpartition(".")[2] == last]
    if same:
        return f"did you mean {' or '.join(same)}?"
    dashes = "--" if name.startswith("--") else ""  # which are alike in all
    return did_you_mean(name.removeprefix(dashes), [flag.removeprefix(dashes) for flag in known], dashes)


def did_you_mean(word: str, known: Sequence[str], prefix: str = "", otherwise: str = "see --help") -> str:
    """ "did you mean …?" with the nearest of `known` (and `prefix` before it), or `otherwise` where none is near."""
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {prefix}{close[0]}?" if close else otherwise


def whole(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number of `least` or more."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give {least} or more") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few; give {least} or more")
        return value

    return number


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """The type of an argument that is a number from `least` (`above`: from more than it) to `most`, and finite."""
    span = f"more than {least:g}" if above else f"{least:g} or more" if most == math.inf else f"from {least:g}"
    span += "" if most == math.inf else f" to {most:g}"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no number that is meant here; give {span}")
        return value

    return convert


def nearest_path(path: Path) -> str:
    """ "; did you mean …?" for a path that is not there, where its first missing part is near a name that is."""
    there = path
    while there.parent != there and not there.parent.is_dir():
        there = there.parent
    names = sorted(one.name for one in there.parent.iterdir()) if there.parent.is_dir() else []
    hint = did_you_mean(there.name, names, f"{there.parent}/", otherwise="")
    return f"; {hint}" if hint else ""


def this_command() -> str:
    """How `maskserve` is called from the folder that this process runs in, without activating anything."""
    return shlex.join(installed("maskserve", "model.console.command"))


def installed(script: str, module: str) -> list[str]:
    """The words that call a program of this environment, its script or else its module, from the current folder."""
    file = Path(sys.executable).with_name(script)
    words = [str(file)] if file.is_file() else [sys.executable, "-m", module]
    here = Path.cwd()
    if Path(words[0]).is_relative_to(here):
        words[0] = str(Path(words[0]).relative_to(here))
    return words


def _joined(flag: str) -> str:
    return flag.replace("_", "-")


def _as_in(names: dict[str, str], word: str) -> str:
    name, equals, value = word.partition("=")
    return names.get(_joined(name), name) + equals + value if name.startswith("--") else word
