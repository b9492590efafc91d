"""The server's variables in the environment, without those that Kubernetes adds to it.

Kubernetes tells every container about the Services of its namespace in variables that begin with their names. Of a
Service called maskserve, or maskserve-metrics, they look like settings; one even has the name of a setting,
MASKSERVE_PORT.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

from pydantic_settings import EnvSettingsSource

PREFIX: Final = "MASKSERVE_"

_PROTOCOL: Final = "(?:tcp|udp|sctp)"
_ONE_PORT: Final = rf"PORT_\d+_{_PROTOCOL.upper()}"
# What is left of a variable's name behind that of the Service, and its value.
_LINKS: Final = tuple(
    (re.compile(rf"(?:\w+_)?{name}"), re.compile(value))
    for name, value in {
        "SERVICE_HOST": r"\S+",
        r"SERVICE_PORT(?:_\w+)?": r"\d+",
        rf"(?:PORT|{_ONE_PORT})": rf"{_PROTOCOL}://\S+:\d+",
        rf"{_ONE_PORT}_PROTO": _PROTOCOL,
        rf"{_ONE_PORT}_PORT": r"\d+",
        rf"{_ONE_PORT}_ADDR": r"\S+",
    }.items()
)


def own_variables() -> dict[str, str]:
    """The variables MASKSERVE_* that are meant for the server, or its client, by their whole names."""
    return {
        variable: value
        for variable, value in os.environ.items()
        if variable.startswith(PREFIX) and not _is_service_link(variable.removeprefix(PREFIX), value)
    }


class OwnVariables(EnvSettingsSource):
    """Where the settings read the environment."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if not _is_service_link(name.upper(), value)}


def _is_service_link(name: str, value: object) -> bool:
    return isinstance(value, str) and any(
        named.fullmatch(name) and written.fullmatch(value) for named, written in _LINKS
    )
