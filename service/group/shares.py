"""Divides a machine among the processes of a group: its devices are dealt out, the threads of its cores divided."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.runtime.engines.cores import usable_cores
from model.runtime.engines.devices import count_gpus, gpu_index, list_devices, named_gpus, said_of_visible_gpus
from service.settings.settings import MOST_POOL_THREADS, InvalidSettingsError, Settings, usable_cpus
from service.settings.values import Auto


@dataclass(frozen=True, slots=True)
class Share:
    """What one process serves with. `turn` counts the processes before it that have the same devices."""

    settings: Settings
    turn: int = 0


def share_out(settings: Settings) -> tuple[Share, ...]:
    """One for each process; the settings as they are where there is one. Raises InvalidSettingsError."""
    devices = list_devices(settings.device)
    if settings.processes == "auto" and settings.device == "auto":
        _check_that_all_named_gpus_are_seen()
    processes = count(settings.processes, devices)
    if processes == 1:
        return (Share(settings),)
    if not hasattr(socket, "send_fds"):
        raise InvalidSettingsError("--processes: this system cannot hand a connection to another process; choose 1")
    dealt = deal(devices, processes)
    return tuple(
        Share(settings.model_copy(update=_own(settings, own, processes)), dealt[:index].count(own))
        for index, own in enumerate(dealt)
    )


def _check_that_all_named_gpus_are_seen() -> None:
    """One process for each GPU would else be fewer than somebody asked for, without a word."""
    named, seen = named_gpus(), count_gpus()
    if named is not None and 0 < seen < named:
        raise InvalidSettingsError(
            f"--processes auto: of {named} GPUs that are named the driver sees {seen}{said_of_visible_gpus()}; name "
            "those that there are"
        )


def count(wanted: int | Auto, devices: Sequence[str]) -> int:
    """How many processes: "auto" is one for each GPU that is named, where these are several."""
    if wanted != "auto":
        return wanted
    return len(set(map(gpu_index, devices))) if all(device.startswith("cuda") for device in devices) else 1


def deal(devices: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """The devices of each process: neighbors, or one that it shares with others where the processes are more.

    Raises InvalidSettingsError: it doesn't come out even. Connections are spread evenly, so some devices would idle.
    """
    if processes % len(devices) == 0:
        return [(devices[index % len(devices)],) for index in range(processes)]
    each, left = divmod(len(devices), processes)
    if left or not each:
        raise InvalidSettingsError(
            f"--processes: {processes} cannot share {len(devices)} devices ({', '.join(devices)}) evenly; choose "
            f"{len(devices)}, a multiple or a divisor of it, or other devices"
        )
    return [tuple(devices[start : start + each]) for start in range(0, len(devices), each)]


def _own(settings: Settings, devices: tuple[str, ...], processes: int) -> dict[str, Any]:
    """The settings of one process that differ from everybody's."""
    own: dict[str, Any] = {"device": ",".join(devices)}
    if settings.engine_threads == "auto":
        own["engine_threads"] = max(1, usable_cores() // processes // max(1, devices.count("cpu")))
    if settings.decode_threads == "auto":
        own["decode_threads"] = max(1, min(MOST_POOL_THREADS, usable_cpus() // processes))
    return own
