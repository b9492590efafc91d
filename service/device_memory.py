"""How much memory the GPUs have in use, for the metrics. Nothing is read, and no library loaded, without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from uuid import UUID

import pynvml

from model.runtime.engines.devices import gpu_index


def read_memory(devices: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Bytes (in use by anybody, in all) of each device that is a GPU; without those whose driver does not tell."""
    memory = {}
    for device in devices:
        if device.startswith("cuda"):
            try:
                pynvml.nvmlInit()  # counts its calls; only the first does anything
                handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{_uuid(gpu_index(device))}")
                info = pynvml.nvmlDeviceGetMemoryInfo(handle)
            except (pynvml.NVMLError, OSError):
                continue
            memory[device] = (int(info.used), int(info.total))
    return memory


def _uuid(index: int) -> UUID:
    """Of CUDA's GPU `index`: NVML numbers them otherwise, and knows nothing of CUDA_VISIBLE_DEVICES."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetUuid(uuid, device):
        raise OSError(f"the driver does not tell which GPU is number {index}")
    return UUID(bytes=bytes(uuid))
