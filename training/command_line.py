"""Flags and recipes -> TrainConfig: one class is the YAML schema, the flags and `--help`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from rich.console import Console

from model.console.arguments import did_you_mean, installed, nearest_flag, spelled, this_command, unknown_flag
from model.console.outputs import why_unwritable
from model.runtime.bundles.bundle import why_no_repository
from training.config import NAME_RULE, TrainConfig, recipe_path
from training.manual import as_argument, example_of, flags, manual, optional

DEFAULT_RECIPE = "shapes"
UNBROKEN = 10_000
"""Columns of an output that nobody looks at as it is."""
NONE = ("none", "None", "null")


class _Command(TrainConfig, BaseSettings):
    """The flags: every field of a configuration, and the recipe."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        cli_kebab_case=False,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        nested_model_default_partial_update=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and the recipe only: an environment variable called NAME or DATA must not steer a training run."""
        return (init_settings,)

    recipe: str = DEFAULT_RECIPE


def parse_train_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration of a command line: flags over the recipe over the defaults.

    `--help` prints the manual and exits. So does the reason, with status 2, when a key is unknown or a value is out of
    range.
    """
    known = [f"--{name}" for name in ("recipe", *dict(flags(TrainConfig)))]
    try:
        arguments = spelled(arguments, known)
        recipe = _recipe_of(arguments)
        values = load_recipe(recipe_path(recipe))
        if {"-h", "--help"} & set(arguments):
            print(manual(recipe, TrainConfig.model_validate(values)))
            raise SystemExit(0)
        if wrong := unknown_flag(arguments, known):
            stop(wrong)
        arguments = _without_none(arguments, values)
        command = CliApp.run(_Command, cli_args=arguments, **values)
        return TrainConfig.model_validate(command.model_dump(exclude={"recipe"}))
    except ValidationError as error:
        stop(_reasons(error))
    except SettingsError as error:
        stop(str(error).removeprefix("error parsing CLI: "))
    except ValueError as error:
        stop(str(error))


def load_recipe(path: Path) -> dict[str, Any]:
    """The values of a YAML recipe. Raises ValueError, naming the file and line, when it is not a mapping."""
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{path} is not valid YAML{where}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, like the recipes in training/recipes")
    try:
        TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {_reasons(error)}") from error
    return values


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich would end the program with 1, which a check means otherwise


def unbroken_console() -> Console:
    """stdout, for tables. Where it is no terminal nothing is broken to fit one: a line is as long as what is on it."""
    console = _Console()
    return console if console.is_terminal else _Console(width=UNBROKEN)


def require_writable(flag: str, path: Path | None, *, folder: bool = True) -> None:
    """Ends the program with one line where nothing can be written at `path`; None asks for nothing."""
    if path is not None and (why := why_unwritable(path, folder=folder)):
        stop(f"{flag}: {why}")


def require_repository(flag: str, path: Path) -> None:
    """Ends the program with one line where no bundle can be published at `path`."""
    require_writable(flag, path)
    if why := why_no_repository(path):
        stop(f"{flag}: {why}")


def resuming(arguments: Sequence[str], *, skip_broken: bool = False) -> str:
    """The command that goes on with the run of these arguments, on as many processes, or goes on without broken
    records."""
    words = _without_flag("--resume", spelled(arguments, ["--resume", "--on_broken"]))
    if skip_broken:
        words = [*_without_flag("--on_broken", words), "--on_broken", "skip"]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return shlex.join([*_launcher(os.environ), "-m", "training.train", *words])
    return shlex.join([*shlex.split(this_command()), "train", *words])


def _without_flag(flag: str, words: list[str]) -> list[str]:
    while flag in words:
        at = words.index(flag)
        words = [*words[:at], *words[at + 2 :]]
    return [word for word in words if not word.startswith(f"{flag}=")]


def _launcher(environment: Mapping[str, str]) -> list[str]:
    """torchrun as it was called, as far as it tells its processes: on several machines, where they meet too."""
    local = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"])
    words = [*installed("torchrun", "torch.distributed.run"), f"--nproc_per_node={local}"]
    machines = environment.get("GROUP_WORLD_SIZE", "1")
    if machines != "1":
        words += [f"--nnodes={machines}", f"--node_rank={environment.get('GROUP_RANK', '0')}"]
        words += [f"--master_addr={environment['MASTER_ADDR']}", f"--master_port={environment['MASTER_PORT']}"]
    return words


def stop(message: str) -> NoReturn:
    """Ends the program with one clear line, without a stack trace."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _reasons(error: ValidationError) -> str:
    """What is wrong with which key, and the nearest right key or word, on one line."""
    fields = dict(flags(TrainConfig))
    keys = [*fields, *(group for group in TrainConfig.model_fields if group not in fields)]
    said = []
    for item in error.errors():
        key, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            said.append(f"there is no key {key}; {nearest_flag(key, keys)}")
            continue
        if item["type"] == "literal_error":
            hint = did_you_mean(str(item["input"]), re.findall("'(.*?)'", item["ctx"]["expected"]), otherwise="")
            message = f"there is no {item['input']!r}; {hint or message[0].lower() + message[1:]}"
        if item["type"] in ("string_pattern_mismatch", "string_too_long"):
            message = f"{item['input']!r} is no name of a model: {NAME_RULE}"
        field = fields.get(".".join(map(str, item["loc"][:-1])), fields.get(key))
        if field is not None and (example := example_of(field)) is not None:
            message += f" (for example {as_argument(example)})"
        said.append(f"{key}: {message}" if key else message)
    return "; ".join(said)


def _without_none(arguments: Sequence[str], values: dict[str, Any]) -> list[str]:
    """The arguments without flags whose value is `none`, which `values` gets instead: pydantic-settings takes it for no
    field that otherwise has several values."""
    given: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not given:
            given.append([word])
        else:
            given[-1].append(word)
    fields = dict(flags(TrainConfig))
    kept: dict[int, str] = {}
    for position, words in enumerate(given):
        name, equals, value = words[0].removeprefix("--").partition("=")
        if name in fields and optional(fields[name]) and (value if equals else " ".join(words[1:])) in NONE:
            kept = {place: other for place, other in kept.items() if other != name}  # the last one wins
            *groups, last = name.split(".")
            reduce(lambda group, part: group.setdefault(part, {}), groups, values)[last] = None
        else:
            kept[position] = name
    return [word for position in kept for word in given[position]]


def _recipe_of(arguments: Sequence[str]) -> str:
    for position, argument in enumerate(arguments):
        if argument == "--recipe" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
    return DEFAULT_RECIPE
