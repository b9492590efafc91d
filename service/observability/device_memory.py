"""How much memory the GPUs have in use, for the metrics. Nothing is read, and no library loaded, without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from uuid import UUID

from model.runtime.engines.devices import gpu_index


def read_memory(devices: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Bytes (in use by anybody, in all) of each device that is a GPU; without those whose driver does not tell."""
    gpus = [device for device in devices if device.startswith("cuda")]
    if not gpus:
        return {}
    import pynvml  # here, as most starts have no use for it

    memory = {}
    for device in gpus:
        try:
            pynvml.nvmlInit()  # counts its calls; only the first does anything
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{_uuid(gpu_index(device))}")
            info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except (pynvml.NVMLError, OSError):  # without them the other metrics are still worth a scrape
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
