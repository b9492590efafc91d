"""Which devices there are, by name: "cpu", "cuda" (the first GPU), "cuda:1", or "auto" for a GPU if one works."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from functools import cache
from typing import Final

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"auto|cpu|cuda(?::(\d{1,3}))?")


def check_device(device: str) -> None:
    """Raise ValueError unless `device` is "auto", "cpu", "cuda" or "cuda:N"."""
    if not _NAME.fullmatch(device):
        raise ValueError(f"there is no device {device!r}; choose auto, cpu, cuda or cuda:N")


def gpu_index(device: str) -> int:
    """N of "cuda:N"; 0 for the other names."""
    match = _NAME.fullmatch(device)
    return int(match[1] or 0) if match else 0


def count_gpus() -> int:
    """GPUs that the NVIDIA driver shows to this process; 0 without a driver. Creates no CUDA context."""
    driver = _driver()
    count = ctypes.c_int()
    try:
        if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except AttributeError:  # a library of that name that is not NVIDIA's
        return 0
    return count.value


def named_gpus() -> int | None:
    """GPUs that CUDA_VISIBLE_DEVICES names, seen or not, up to the "-1" that ends its list; None where it is not set.

    CUDA leaves out the first that it does not know and all behind it, without a word.
    """
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return None
    named = [name.strip() for name in names.split(",") if name.strip()]
    return named.index("-1") if "-1" in named else len(named)


def said_of_visible_gpus() -> str:
    """What to add where a GPU is missed: what CUDA_VISIBLE_DEVICES says, in brackets; nothing where it is not set."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if names is None else f" (CUDA_VISIBLE_DEVICES is {names!r})"


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver speaks, as (major, minor); None without a driver that tells."""
    driver = _driver()
    version = ctypes.c_int()
    try:
        if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except AttributeError:  # an emulated driver may lack it
        return None
    return version.value // 1000, version.value % 1000 // 10


@cache
def tell_cpu(reason: str) -> None:
    """Log, once, why "auto" computes on the CPU. A warning if there is a GPU, which somebody will want used."""
    logger.log(logging.WARNING if count_gpus() else logging.INFO, "computing on the CPU: %s", reason)


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def list_devices(choice: str) -> tuple[str, ...]:
    """The devices that a choice such as "cuda:0,cuda:1" or "cpu,cpu" names; "auto" is every GPU if there are several.

    Raises:
        ValueError: one of the names is none, or "auto" is among others.
    """
    devices = tuple(name.strip() for name in choice.split(","))
    for device in devices:
        check_device(device)
    if len(devices) > 1 and "auto" in devices:
        raise ValueError(f"{choice!r} names auto among others; give auto alone, or the devices by name")
    if devices == ("auto",) and (gpus := count_gpus()) > 1:
        return tuple(f"cuda:{index}" for index in range(gpus))
    return devices
