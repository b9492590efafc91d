"""Reads the settings from the command line, the environment and a file, and shows them: `--help`, `--check`."""

from __future__ import annotations

import importlib.util
import json
import os
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError

from model.console.arguments import did_you_mean, nearest_flag, spelled
from service.http.keys import Keys, check_key, read_keys
from service.settings.environment import PREFIX, own_variables
from service.settings.settings import GROUPS, InvalidSettingsError, ModelSettings, Settings

CONFIG: Final = "config"
OF_THE_CLIENT: Final = ("CLIENT_URL", "CLIENT_KEY")
"""Variables that `service.client` reads, and that may stand in the same environment."""
FLAGS: Final = tuple(
    flag + name.replace("_", "-")
    for name, field in Settings.model_fields.items()
    for flag in (("--", "--no-") if field.annotation is bool else ("--",))
)
TABLES: Final = {"versions": "{nuclei = 1}", "model_aliases": '{best = "nuclei:1"}'}
"""How the file has them."""
PER_MODEL: Final = '{"nuclei": {"max_batch_size": 4}}'


def read_settings(arguments: Sequence[str], given: Mapping[str, Any] | None = None) -> Settings:
    """As `parse_settings`, and what they name is there. Raises InvalidSettingsError."""
    settings = parse_settings(arguments, given)
    if not os.path.isdir(settings.models):  # unlike Path's, it raises nothing where a path is too long, or forbidden
        raise InvalidSettingsError(
            f"--models: {settings.models} is not a folder; give a folder NAME/VERSION/ of bundles, or one bundle's"
        )
    if settings.engine == "torchscript" and importlib.util.find_spec("torch") is None:
        raise InvalidSettingsError("--engine torchscript needs torch, which is not installed; choose onnx")
    return settings


def parse_settings(arguments: Sequence[str], given: Mapping[str, Any] | None = None) -> Settings:
    """Settings by name, from the command line, the environment and the file, each winning over the next.

    given: by the names and in the forms that the file has. Raises InvalidSettingsError.
    """
    _refuse_unknown_variables()
    given = given or {}
    _refuse_unknown_names(given, "")
    arguments = spelled(arguments, FLAGS)
    try:
        return _with_file(_config_file(arguments))(_cli_parse_args=list(arguments), **given)
    except ValidationError as error:
        raise InvalidSettingsError(_one_line(error)) from None
    except SettingsError as error:
        raise InvalidSettingsError(_unread(str(error), arguments)) from None


def read_all_keys(settings: Settings) -> Keys:
    """The keys in the settings and in the files that they name. Raises InvalidSettingsError."""
    api = [*_keys("api-keys", settings.api_keys), *_keys_in("api-keys-file", settings.api_keys_file)]
    admin = [*_keys("admin-keys", settings.admin_keys), *_keys_in("admin-keys-file", settings.admin_keys_file)]
    if set(api) & set(admin):
        raise InvalidSettingsError("--admin-keys: one of them is also among --api-keys; give every key one purpose")
    return Keys(api, admin, local=_is_loopback(settings.host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keys(name: str, secrets: Sequence[SecretStr]) -> list[str]:
    keys = [secret.get_secret_value() for secret in secrets]
    for number, key in enumerate(keys, 1):
        try:
            check_key(key)
        except ValueError as error:
            raise InvalidSettingsError(f"--{name}, key {number} of {len(keys)}: {error}") from None
    return keys


def _keys_in(name: str, file: Path | None) -> tuple[str, ...]:
    try:
        return () if file is None else read_keys(file)
    except OSError as error:
        raise InvalidSettingsError(f"--{name}: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSettingsError(f"--{name}: {error}") from None


def _config_file(arguments: Sequence[str]) -> Path | None:
    """The file must be known before everything else is read."""
    file = own_variables().get(PREFIX + CONFIG.upper())
    for position, argument in enumerate(arguments, 1):  # the last one wins
        name, equals, value = argument.partition("=")
        if name == f"--{CONFIG}":
            file = value if equals else next(iter(arguments[position:]), None)  # none: told when they are all read
    if file == "":
        raise InvalidSettingsError(f"--{CONFIG}: no file is named; leave it out, or give the path of a TOML file")
    return None if file is None else Path(file)


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
            others = super().settings_customise_sources(settings_cls, *sources, **named)
            return *others, InitSettingsSource(settings_cls, content)

    return SettingsWithFile


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettingsError(f"--{CONFIG}: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also bytes that are no UTF-8
        raise InvalidSettingsError(f"--{CONFIG}: {file} is no TOML: {error}") from None
    if CONFIG in content:
        raise InvalidSettingsError(f"{CONFIG} in {file} itself has no effect; name the file by --{CONFIG}")
    _refuse_unknown_names(content, f" in {file}")
    return content


def _refuse_unknown_names(content: Iterable[str], where: str) -> None:
    for name in content:
        if name not in Settings.model_fields:
            hint = did_you_mean(name, list(Settings.model_fields))
            raise InvalidSettingsError(f"unknown setting {name}{where}; {hint}")


def _unread(message: str, arguments: Sequence[str]) -> str:
    """What pydantic-settings says about arguments and variables that it cannot even read, for people."""
    message = message.removeprefix("error parsing CLI: ")
    if "per_model" in message:
        return f"--per-model: no JSON object; give one such as {PER_MODEL}"
    unrecognized = message.removeprefix("unrecognized arguments: ")
    if unrecognized == message:
        return f"{message}; see --help"
    if any("key" in argument for argument in arguments if argument.startswith("-")):  # a key is never shown
        names = [word.partition("=")[0] for word in unrecognized.split() if word.startswith("-")]
        unrecognized = " ".join(names) or "what follows a flag's value"
    hint = nearest_flag(unrecognized.split()[0].partition("=")[0], FLAGS)
    return f"unrecognized arguments: {unrecognized}; {hint}"


def _one_line(error: ValidationError) -> str:
    wrong: dict[str, list[str]] = {}
    for entry in error.errors():  # a setting that may be a number or a word has an entry for each
        message = entry["msg"].removeprefix("Input ").removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            known = list(ModelSettings.model_fields)
            hint = did_you_mean(str(entry["loc"][-1]), known, otherwise=", ".join(known))
            message = f"no such setting of a model; {hint}"
        elif entry["type"] == "tuple_type":
            message = "should be a list"
        elif entry["type"] in ("dict_type", "model_type"):
            message = f"should be as in {TABLES.get(str(entry['loc'][0]), PER_MODEL)}"
        name = "--" + str(entry["loc"][0]).replace("_", "-") if entry["loc"] else ""
        if name and not name.endswith("-keys"):  # a key is never shown
            if entry["loc"][0] == "per_model":
                name = ".".join([name, *map(str, entry["loc"][1:3])])
            name = f"{name} {textwrap.shorten(str(entry['input']), 80)}"
        wrong.setdefault(name, []).append(message)
    return "; ".join(f"{name}: {' or '.join(said)}" if name else " ".join(said) for name, said in wrong.items())


def _refuse_unknown_variables() -> None:
    known = [name.upper() for name in Settings.model_fields]
    for variable in own_variables():
        name = variable.removeprefix(PREFIX)
        if name not in (*known, *OF_THE_CLIENT):
            hint = did_you_mean(name, known, PREFIX)
            raise InvalidSettingsError(f"unknown setting {variable} in the environment; {hint}")


MANUAL: Final = """\
Serve Mask R-CNN models over HTTP.

usage: maskserve serve [--NAME VALUE]...
       maskserve serve --check [--NAME VALUE]...      validate everything, print what would hold, and exit
       maskserve serve --help                         this manual

Every setting has one name in three places: the flag --max-batch-size, the variable MASKSERVE_MAX_BATCH_SIZE, and
max_batch_size in the TOML file that --config names. A flag wins over the environment, and that over the file. An
unknown or contradictory setting stops the start. Exit codes: 0 stopped when told to, 1 the models cannot be served,
2 wrong settings."""


def manual() -> str:
    """The text of `--help`."""
    parts = [MANUAL]
    wrapper = textwrap.TextWrapper(100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    wrapper.break_on_hyphens = wrapper.break_long_words = False  # so that paths can be copied
    for title, names in GROUPS.items():
        parts.append(f"\n{title}")
        for name in names:
            field = Settings.model_fields[name]
            flag = name.replace("_", "-")
            parts.append(f"  --{flag}, --no-{flag}" if field.annotation is bool else f"  --{flag} {_values(field)}")
            default = "" if field.default in (None, (), {}) else f" (default: {_shown(field.default)})"
            text = f"{field.description}{default} [{PREFIX}{name.upper()}]"
            parts += wrapper.wrap(text)
    return "\n".join(parts)


def effective(settings: Settings, arguments: Sequence[str]) -> str:
    """The settings as `--check` prints them: a settings file that gives the same, each line with its origin.

    Keys are hidden, in comments.
    """
    file = _read_file(settings.config) if settings.config else {}
    flags = {argument.partition("=")[0] for argument in spelled(arguments, FLAGS)}
    variables = own_variables()
    lines = []
    for name in (name for names in GROUPS.values() for name in names):
        flag = name.replace("_", "-")
        if {f"--{flag}", f"--no-{flag}"} & flags:
            origin = "flag"
        elif PREFIX + name.upper() in variables:
            origin = "environment"
        else:
            origin = "file" if name in file else "default"
        value = getattr(settings, name)
        line = f"{name} = {_shown(value)}"
        if value is None:
            line = f"# {name} is not set"
        elif name == CONFIG or (name == "precision" and not settings.names_precision):
            line = f"# {line}"  # a file must not name another; a precision that nobody said is the engine's choice
        elif name in ("api_keys", "admin_keys") and value:
            line = f"# {name}: {len(value)}, which are not shown"
        lines.append(f"{line:60}  # {origin}")
    return "\n".join(lines)


def _values(field: FieldInfo) -> str:
    """What may follow a flag, for the manual."""
    annotation = field.annotation
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    words = str(annotation)
    if words.startswith("dict"):
        return "TEXT"
    for kind, shown in (("Path", "PATH"), ("float", "NUMBER"), ("int", "NUMBER")):
        if kind in words:
            return shown + (" or auto" if "auto" in words else "")
    return "TEXT"


def _shown(value: object) -> str:
    """As a TOML file would hold it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(name)} = {_shown(own)}" for name, own in value.items()) + "}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    # TOML's strings are JSON's, but for DEL and for characters past U+FFFF, which JSON would write as two.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
