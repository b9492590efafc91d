"""Ray's nodes start however busy the machine is: what stands in for two functions of Ray's that lose patience."""

from __future__ import annotations

import inspect
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.service.harness import until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def patiently(get_node: Callable[[str, str], dict[str, Any]]) -> Callable[[str, str], dict[str, Any]]:
    """Ray gives a node 30 seconds to start, however busy the machine is."""

    def get(address: str, node: str) -> dict[str, Any]:
        found = []

        def is_there() -> bool:
            with suppress(RuntimeError):
                found.append(get_node(address, node))
            return bool(found)

        until(is_there)
        return found[0]

    return get


def with_ports(start_raylet: Callable[..., Any]) -> Callable[..., Any]:
    """A node ends where its agents need 15 seconds to start and say which ports they took: so they are told which."""
    signature = inspect.signature(start_raylet)

    def start(*arguments: Any, **named: Any) -> Any:
        listen = "dashboard_agent_listen_port"  # the one whose file is waited for all the same
        for port in (listen, "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port"):
            named[port] = free_port()
        given = signature.bind(*arguments, **named).arguments
        (Path(given["session_dir"]) / f"{listen}_{given['node_id']}").write_text(str(named[listen]))
        return start_raylet(*arguments, **named)

    return start


def import_ray() -> None:
    """It takes seconds, which only a process that is given tests of it has to spend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own use of pydantic
        import ray.cluster_utils
        import ray.serve  # noqa: F401
