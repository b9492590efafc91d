"""What this machine's processor is, and which instructions it has beyond float32's."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

INT8_FEATURES: Final = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})
"""Dot products of bytes, added in 32 bits."""

PAIRED_INT8_FEATURES: Final = frozenset({"avx2"})
"""Products of an unsigned and a signed byte, of which two are added in 16 bits before they go on in 32."""

LARGEST_PAIRED_WEIGHT: Final = 64
"""Up to which no two products overflow: 2 * 255 * 64 is below 2**15. What overflows is cut off in silence, and the
answers are not those whose AP was measured where a bundle was published."""

BF16_FEATURES: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""Dot products of bfloat16."""

_IDENTIFYING: Final = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"}
)
"""Names in /proc/cpuinfo, of x86 and ARM, that are the same at every start."""


@cache
def processor_features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Linux's names for the instructions that every processor of this machine has; empty where nobody tells them."""
    lines = [value for name, value in _fields(cpuinfo) if name == "flags"]
    return frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """Such as "AMD EPYC 9R14"; the kind of processor where nobody tells more."""
    names = (value for name, value in _fields(cpuinfo) if name == "model name")
    return next(names, "") or platform.processor() or platform.machine()


def processor_identity(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """Everything that the system says of which processor this is, for what is compiled for it: on another, at least one
    of these differs, as far as the system can tell them apart. Off Linux that is the platform's word alone; on ARM the
    instructions stand in `Features`, and the model in numbers."""
    told = {f"{name}: {value}" for name, value in _fields(cpuinfo) if name in _IDENTIFYING}
    return (platform.machine(), platform.processor(), *sorted(told))


def _fields(cpuinfo: Path) -> list[tuple[str, str]]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not on Linux
        return []
    pairs = (line.partition(":") for line in lines)
    return [(name.strip(), value.strip()) for name, _, value in pairs]
