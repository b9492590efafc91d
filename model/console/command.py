"""One command for everything: `maskserve train …` is `python -m training.train …`, and so on.

maskserve serve
maskserve predict model/samples/nuclei --overlay drawn
maskserve train --help
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Final, NamedTuple

from model.console.arguments import did_you_mean
from model.console.running import WRONG, interruptible, missing_package


class Command(NamedTuple):
    """Where a command's main function is, and the extra of pyproject.toml that brings what it imports."""

    module: str
    does: str
    extra: str = ""


COMMANDS: Final[Mapping[str, Command]] = {
    "serve": Command("service.__main__", "answer over HTTP", "serve"),
    "predict": Command("service.client.command.main", "ask a running server about files and folders"),
    "predict-many": Command("service.predict_many.__main__", "predict a folder, a list or a bucket, and go on", "many"),
    "train": Command("training.train", "train a network and publish it as a bundle", "train"),
    "evaluate": Command("training.evaluate", "COCO figures of a bundle, a checkpoint or a server", "train"),
    "export": Command("training.export", "a checkpoint, or torchvision's weights, to a bundle", "train"),
    "publish": Command("model.runtime.bundles.publishing", "sign a bundle, or copy it to another repository", "serve"),
    "ablate": Command("training.ablate", "train variants of a recipe and compare them", "train"),
    "check": Command("training.data.check", "what is in a dataset, and what is wrong with it", "train"),
    "convert": Command("training.data.convert", "a dataset of one format to another", "train"),
}
"""By name, so that a command imports only what is its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return interruptible(lambda: _run(given))


def _run(given: Sequence[str]) -> int:
    name, *rest = given or ["--help"]
    if name in ("-h", "--help"):
        print(manual())
        return 0
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, list(COMMANDS), otherwise=f"there are {', '.join(COMMANDS)}")
        print(f"maskserve: there is no command {name}; {hint}", file=sys.stderr)
        return WRONG
    try:
        function: Callable[[Sequence[str]], int] = import_module(command.module).main
        return function(rest)
    except ModuleNotFoundError as error:
        said = missing_package(error, name, command.extra)
        if not said:
            raise
        print(said, file=sys.stderr)
        return WRONG


def manual() -> str:
    """The text of `--help`."""
    lines = [f"  {name:12} {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: maskserve COMMAND ...", "", *lines, "", "maskserve COMMAND --help says more."])


if __name__ == "__main__":
    sys.exit(main())
