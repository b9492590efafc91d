"""The socket that the server listens on, opened before anything slow so that a taken port is told at once."""

from __future__ import annotations

import os
import socket
from typing import Final

from service.settings.settings import InvalidSettingsError

MOST_FILES: Final = 65_536


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InvalidSettingsError: the address is taken, unknown or not ours."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as error:
        # create_server adds the address to strerror; getaddrinfo's numbers are not the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise InvalidSettingsError(
            f"cannot listen at {host}:{port}: {reason}; choose another --host or --port"
        ) from None


def allow_connections() -> None:
    """Let this process open as many files as it may, for each connection is one: systems begin with 1,024."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
