"""Which devices there are, by name: "cpu", "cuda" (the first GPU), "cuda:1", or "auto" for a GPU if one works."""

from __future__ import annotations

import ctypes
import re
from typing import Final

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
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


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
