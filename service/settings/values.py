"""How values of settings are written, in flags, the environment and a file, and which are refused."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import NoDecode

from model.runtime.bundles.signatures import check_public_key
from model.runtime.engines.devices import list_devices
from service.http.proxies import PREFIX as PREFIX_PATH

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]

DEFAULT_MODEL: Final = "*"
"""What an alias says that is a name of the model that answers when a request names none."""


def _split(value: object) -> object:
    """ "a, b" as the environment and flags give several values; lists as the file does."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_keys(value: object) -> object:
    parts = _split(value)
    if isinstance(value, str) and not parts:  # such as a variable of a deployment that is not filled in
        raise ValueError("no key in it; leave the setting out to serve without keys")
    return parts


def _split_trusted(value: object) -> object:
    parts = _split(value)
    if isinstance(value, str) and not parts:  # whoever names no key does not mean that anybody is trusted
        raise ValueError("no key in it; leave the setting out to serve unsigned bundles")
    return parts


def _split_versions(value: object) -> object:
    """ "nuclei:1, shapes:3" as the environment and flags give them; a table as the file does."""
    parts = _split(value)
    if not isinstance(value, str) or not isinstance(parts, list):
        return value
    versions: dict[str, str] = {}
    for part in parts:
        name, colon, number = part.partition(":")
        if not (name and colon and number.isdecimal()) or name in versions:
            raise ValueError("should be as in nuclei:1,shapes:3, with one version of each model")
        versions[name] = number
    return versions


def _split_aliases(value: object) -> object:
    """ "best=nuclei:1, cells=nuclei" as the environment and flags give them; a table as the file does."""
    parts = _split(value)
    if not isinstance(value, str) or not isinstance(parts, list):
        return value
    aliases: dict[str, str] = {}
    for part in parts:
        alias, equals, target = part.partition("=")
        if not (alias and equals) or alias in aliases:
            raise ValueError("should be as in best=nuclei:1,cells=nuclei, with each alias once")
        aliases[alias] = target
    return aliases


def _check_aliases(aliases: dict[str, str]) -> dict[str, str]:
    for alias, target in aliases.items():
        if not (_ALIAS.fullmatch(alias) and (target == DEFAULT_MODEL or _TARGET.fullmatch(target))):
            raise ValueError(f"{alias}={target}: should be a name as models have it, then NAME, NAME:VERSION or *")
    return aliases


def _check_device(value: str) -> str:
    list_devices(value)
    return value


def _check_host(value: str) -> str:
    try:
        value.encode("idna")
    except UnicodeError:
        raise ValueError("is no name of a host") from None
    return value


def _check_origin(value: str) -> str:
    if value not in ("*", "null") and not _ORIGIN.fullmatch(value):
        raise ValueError("no browser sends such an origin; give SCHEME://HOST or SCHEME://HOST:PORT, or * or null")
    return value


def _check_prefix(value: str) -> str:
    prefix = value.rstrip("/")
    if not PREFIX_PATH.fullmatch(prefix):
        raise ValueError("is no path; give one such as /segmentation")
    return prefix


def _no_empty_path(value: object) -> object:
    if value == "":  # such as a variable that is not filled in; pathlib takes it for the folder we are in
        raise ValueError("no path in it; leave the setting out, or give one")
    return value


def _check_proxy(value: str) -> str:
    if value != "*":
        ip_network(value)  # says itself what is wrong
    return value


def no_bool_for_a_number(value: object, info: ValidationInfo) -> object:
    if isinstance(value, bool) and info.field_name != "access_log":  # Python takes it for a number
        raise ValueError("should not be true or false")
    return value


_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")

Device = Annotated[str, AfterValidator(_check_device)]
Host = Annotated[str, AfterValidator(_check_host)]
Prefix = Annotated[str, AfterValidator(_check_prefix)]
PathTo = Annotated[Path, BeforeValidator(_no_empty_path)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(_split)]
Proxies = Annotated[tuple[Annotated[str, AfterValidator(_check_proxy)], ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_keys)]
TrustedKeys = Annotated[
    tuple[Annotated[str, AfterValidator(check_public_key)], ...], NoDecode, BeforeValidator(_split_trusted)
]

_ALIAS: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TARGET: Final = re.compile(_ALIAS.pattern + "(:[1-9][0-9]{0,8})?")
Versions = Annotated[dict[str, PositiveInt], NoDecode, BeforeValidator(_split_versions)]
Aliases = Annotated[dict[str, str], NoDecode, BeforeValidator(_split_aliases), AfterValidator(_check_aliases)]
