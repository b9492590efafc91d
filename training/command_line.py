"""Flags and recipes -> TrainConfig: one class is the YAML schema, the flags and `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from training.config import TrainConfig, recipe_names, recipe_path

DEFAULT_RECIPE = "shapes"


class _Command(TrainConfig, BaseSettings):
    """Trains a Mask R-CNN and publishes a bundle that the server loads.

    Without arguments: a small run on generated shapes. A recipe is a YAML file of these fields; flags win over it.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m training.train",
        cli_kebab_case=False,
        cli_avoid_json=True,
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

    recipe: str = Field(DEFAULT_RECIPE, description=f"{', '.join(recipe_names())}, or the path of a .yaml file")


def parse_train_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration of a command line: flags over the recipe over the defaults.

    Prints the reason and exits with status 2 when a key is unknown or a value is out of range.
    """
    try:
        recipe = _recipe_of(arguments)
        values = load_recipe(recipe_path(recipe))
        command = CliApp.run(_Command, cli_args=list(arguments), **values)
        return TrainConfig.model_validate(command.model_dump(exclude={"recipe"}))
    except ValidationError as error:
        stop("; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()))
    except (ValueError, SettingsError) as error:
        stop(str(error))


def load_recipe(path: Path) -> dict[str, Any]:
    """The values of a YAML recipe. Raises ValueError, naming the file and line, when it is not a mapping."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, like the recipes in training/recipes")
    try:
        TrainConfig.model_validate(values)
    except ValidationError as error:
        keys = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {keys}") from error
    return values


def stop(message: str) -> NoReturn:
    """Ends the program with one clear line, without a stack trace."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _recipe_of(arguments: Sequence[str]) -> str:
    for position, argument in enumerate(arguments):
        if argument == "--recipe" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
    return DEFAULT_RECIPE
