"""The server's variables in the environment, without those that Kubernetes adds to it.

Kubernetes tells every container about the Services of its namespace in variables that begin with their names. Of a
Service called maskserve, or maskserve-metrics, they look like settings; one even has the name of a setting,
MASKSERVE_PORT. An address that a Service does not have is empty there.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

from pydantic_settings import EnvSettingsSource

PREFIX: Final = "MASKSERVE_"

_ONE_PORT: Final = r"PORT_\d+_(?:TCP|UDP|SCTP)"
# What is left of a variable's name behind that of the Service. No setting is called so: any value may stand there.
_LINKS: Final = re.compile(
    rf"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|{_ONE_PORT}|{_ONE_PORT}_PROTO|{_ONE_PORT}_PORT|{_ONE_PORT}_ADDR)"
)
# This one could be meant for a setting. Its value tells.
_URL_NAME: Final = re.compile(r"(?:\w+_)?PORT")
_URL: Final = re.compile(r"(?:(?:tcp|udp|sctp)://\S*:\d+)?")


def own_variables() -> dict[str, str]:
    """The variables MASKSERVE_* that are meant for the server, or its client, by their whole names.

    In capitals: pydantic reads a setting from them however they are written.
    """
    named = ((variable.upper(), value) for variable, value in os.environ.items())
    return {
        variable: value
        for variable, value in named
        if variable.startswith(PREFIX) and not _is_service_link(variable.removeprefix(PREFIX), value)
    }


class OwnVariables(EnvSettingsSource):
    """Where the settings read the environment."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if not _is_service_link(name.upper(), value)}


def _is_service_link(name: str, value: object) -> bool:
    return bool(
        _LINKS.fullmatch(name) or (_URL_NAME.fullmatch(name) and isinstance(value, str) and _URL.fullmatch(value))
    )
