"""Reads the settings from the command line, the environment and a file, and shows them: `--help`, `--check`."""

from __future__ import annotations

import difflib
import importlib.util
import os
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError

from service.keys import Keys, read_keys
from service.settings import GROUPS, PREFIX, InvalidSettingsError, Settings

CONFIG: Final = "config"


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the command line, the environment and the file, each winning over the next.

    Raises InvalidSettingsError.
    """
    _refuse_unknown_variables()
    try:
        settings = _with_file(_config_file(arguments))(_cli_parse_args=list(arguments))
    except ValidationError as error:
        raise InvalidSettingsError(_one_line(error)) from None
    except SettingsError as error:
        raise InvalidSettingsError(f"{str(error).removeprefix('error parsing CLI: ')}; see --help") from None
    if not settings.models.is_dir():
        raise InvalidSettingsError(
            f"--models: {settings.models} is not a folder; give a folder NAME/VERSION/ of bundles"
        )
    if settings.engine == "torchscript" and importlib.util.find_spec("torch") is None:
        raise InvalidSettingsError("--engine torchscript needs torch, which is not installed; choose onnx")
    return settings


def read_all_keys(settings: Settings) -> Keys:
    """The keys in the settings and in the files that they name. Raises InvalidSettingsError."""
    api = [*(key.get_secret_value() for key in settings.api_keys), *_keys_in("api-keys-file", settings.api_keys_file)]
    admin = [
        *(key.get_secret_value() for key in settings.admin_keys),
        *_keys_in("admin-keys-file", settings.admin_keys_file),
    ]
    if set(api) & set(admin):
        raise InvalidSettingsError("--admin-keys: one of them is also among --api-keys; give every key one purpose")
    return Keys(api, admin)


def _keys_in(name: str, file: Path | None) -> tuple[str, ...]:
    try:
        return () if file is None else read_keys(file)
    except OSError as error:
        raise InvalidSettingsError(f"--{name}: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSettingsError(f"--{name}: {error}") from None


def _config_file(arguments: Sequence[str]) -> Path | None:
    """The file must be known before everything else is read."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == f"--{CONFIG}":
            return Path(value) if equals else Path(*arguments[position + 1 : position + 2])
    variable = os.environ.get(PREFIX + CONFIG.upper())
    return Path(variable) if variable else None


def _with_file(file: Path | None) -> type[Settings]:
    """`Settings` whose last source is the file."""
    if file is None:
        return Settings
    content = _read_file(file)

    class SettingsWithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return *sources, *named.values(), InitSettingsSource(settings_cls, content)

    return SettingsWithFile


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(f"--{CONFIG}: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also bytes that are no UTF-8
        raise InvalidSettingsError(f"--{CONFIG}: {file} is no TOML: {error}") from None
    for name in content:
        if name not in Settings.model_fields or name == CONFIG:
            raise InvalidSettingsError(f"unknown setting {name} in {file}; {_hint(name, list(Settings.model_fields))}")
    return content


def _one_line(error: ValidationError) -> str:
    wrong: dict[str, list[str]] = {}
    for entry in error.errors():  # a setting that may be a number or a word has an entry for each
        message = entry["msg"].removeprefix("Input ").removeprefix("Value error, ")
        name = "--" + str(entry["loc"][0]).replace("_", "-") if entry["loc"] else ""
        if name and not name.endswith("-keys"):  # a key is never shown
            if entry["loc"][0] == "per_model":
                name = ".".join([name, *map(str, entry["loc"][1:3])])
            name = f"{name} {entry['input']}"
        wrong.setdefault(name, []).append(message)
    return "; ".join(f"{name}: {' or '.join(said)}" if name else " ".join(said) for name, said in wrong.items())


def _refuse_unknown_variables() -> None:
    known = [name.upper() for name in Settings.model_fields]
    for variable in os.environ:
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            hint = _hint(name, known, PREFIX)
            raise InvalidSettingsError(f"unknown setting {variable} in the environment; {hint}")


def _hint(name: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {prefix}{close[0]}?" if close else "see --help"


MANUAL: Final = """\
Serve Mask R-CNN models over HTTP.

usage: python -m service [--NAME VALUE]...
       python -m service --check [--NAME VALUE]...    validate everything, print what would hold, and exit
       python -m service --help                       this manual

Every setting has one name in three places: the flag --max-batch-size, the variable MASKSERVE_MAX_BATCH_SIZE, and
max_batch_size in the TOML file that --config names. A flag wins over the environment, and that over the file. An
unknown or contradictory setting stops the start. Exit codes: 0 stopped when told to, 1 the models cannot be served,
2 wrong settings."""


def manual() -> str:
    """The text of `--help`."""
    parts = [MANUAL]
    for title, names in GROUPS.items():
        parts.append(f"\n{title}")
        for name in names:
            field = Settings.model_fields[name]
            parts.append(f"  --{name.replace('_', '-')} {_values(field)}".rstrip())
            default = "" if field.default in (None, (), {}) else f" (default: {_shown(field.default)})"
            text = f"{field.description}{default} [{PREFIX}{name.upper()}]"
            parts += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(parts)


def effective(settings: Settings, arguments: Sequence[str]) -> str:
    """The settings as `--check` prints them: lines of a settings file, each with its origin. Keys are hidden."""
    file = _read_file(settings.config) if settings.config else {}
    flags = {argument.partition("=")[0] for argument in arguments}
    lines = []
    for name in (name for names in GROUPS.values() for name in names):
        flag = name.replace("_", "-")
        if {f"--{flag}", f"--no-{flag}"} & flags:
            origin = "flag"
        elif PREFIX + name.upper() in os.environ:
            origin = "environment"
        else:
            origin = "file" if name in file else "default"
        value = getattr(settings, name)
        line = f"# {name} is not set" if value is None else f"{name} = {_shown(value)}"
        lines.append(f"{line:60}  # {origin}")
    return "\n".join(lines)


def _values(field: FieldInfo) -> str:
    """What may follow a flag, for the manual."""
    annotation = field.annotation
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    if annotation is bool:
        return ""
    if choices:
        return "{" + ",".join(choices) + "}"
    words = str(annotation)
    for kind, shown in (("Path", "PATH"), ("float", "NUMBER"), ("int", "NUMBER")):
        if kind in words:
            return shown + (" or auto" if "auto" in words else "")
    return "TEXT"


def _shown(value: object) -> str:
    """As a TOML file would hold it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_shown(own)}" for name, own in value.items()) + "}"
    return '"(hidden)"' if isinstance(value, SecretStr) else f'"{value}"'
