"""Where a batch's time goes, how often the host waits for the GPU, and how near the hardware's limits all of it is."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # public, but not in torch's __all__
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from model.network.graph.static import StaticGraph

PROFILED_RUNS = 3
RATE_RUNS = 10

aten = torch.ops.aten
LAYERS = (aten.convolution.default, aten.addmm.default, aten.mm.default, aten.bmm.default, aten.baddbmm.default)


@dataclass(frozen=True)
class Rates:
    """What this device does in this run: multiply-add as two operations; bytes read plus bytes written."""

    matmul_half_flops: float
    matmul_fp32_flops: float
    copy_bytes: float


@dataclass(frozen=True)
class Work:
    """Of one batch: operations, and the fewest bytes that convolutions and matrix products move one by one."""

    flops: float
    layer_bytes: float


@dataclass(frozen=True)
class Floor:
    """Seconds that a batch takes at least, and which share of a measured time that is."""

    arithmetic: float
    memory: float
    share_of_time: float


def measure_rates(device: torch.device) -> Rates:
    """A large matrix product of random numbers in both precisions, without TF32, and a large copy."""
    gpu = device.type == "cuda"
    side = 8192 if gpu else 256
    half = torch.float16 if gpu else torch.bfloat16
    allowed, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    single = 2 * side**3 / _seconds(lambda: a @ b, device)
    a, b = a.to(half), b.to(half)
    low = 2 * side**3 / _seconds(lambda: a @ b, device)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    source = torch.empty(2**32 if gpu else 2**20, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / _seconds(lambda: target.copy_(source), device)
    return Rates(low, single, copied)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of several calls after three for warming up."""
    times = []
    for number in range(3 + RATE_RUNS):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        if number >= 3:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _LayerBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that each convolution and matrix product reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in LAYERS:
            with self:  # in inference mode a convolution comes as a whole, before its parts
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        if func in LAYERS:
            tensors = [part for part in (*args, result) if isinstance(part, Tensor)]
            self.total += sum(part.numel() * part.element_size() for part in tensors)
        return result


def measure_work(run: Callable[[], object]) -> Work:
    """`run`, which must not be a replayed graph, does one batch."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        run()
    with torch.no_grad(), _LayerBytes() as counted:
        run()
    return Work(float(counter.get_total_flops()), float(counted.total))


def floor(work: Work, rates: Rates, precision: str, seconds: float) -> Floor:
    """For one batch that takes `seconds`."""
    rate = rates.matmul_half_flops if precision == "fp16" else rates.matmul_fp32_flops
    arithmetic, memory = work.flops / rate, work.layer_bytes / rates.copy_bytes
    return Floor(arithmetic, memory, max(arithmetic, memory) / seconds)


def count_syncs(run: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the GPU inside `run`, as PyTorch notices it; None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def stage_times(graph: StaticGraph, run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of a batch by stage, from torch's profiler: the GPU's kernels, or the CPU's operators.

    `run` runs `graph` kernel by kernel. Names with a dot are parts of the stage before it.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with _annotated(graph):
        run()
        wait(device)
        with profile(activities=activities, acc_events=True) as profiled:
            for _ in range(PROFILED_RUNS):
                run()
            wait(device)
    totals: dict[str, float] = dict.fromkeys((f"stage {name}" for name in STAGES), 0.0)
    for event in profiled.events() or []:
        # The profiler has each range twice, as the host saw it and as the GPU did; the host's knows its kernels.
        if event.name in totals and event.device_type == DeviceType.CPU:
            totals[event.name] += event.device_time_total if gpu else event.cpu_time_total
    return {name.removeprefix("stage "): total / PROFILED_RUNS / 1e3 for name, total in totals.items()}


STAGES = {
    "normalize": "_normalize",
    "backbone and FPN": "_pyramid",
    "proposals": "_proposals",
    "proposals.head": "rpn.head.forward",
    "proposals.suppression": "_suppress_proposals",
    "levels for pooling": "_for_pooling",
    "detections": "_best",
    "detections.box head": "roi_heads.box_head.forward",
    "mask head": "_masks",
    "all pooling": "_pooled",
}
"""Stage by what it is in a StaticGraph. "all pooling" is inside "detections" for the boxes, beside it for masks."""


@contextmanager
def _annotated(graph: StaticGraph) -> Iterator[None]:
    """Each stage is a range in the profiler's eyes."""
    changed = []
    for stage, path in STAGES.items():
        *owner_path, name = path.split(".")
        owner: Any = graph.get_submodule(".".join(owner_path))
        original = getattr(owner, name)

        def annotated(*args: Any, __stage: str = stage, __original: Any = original, **kwargs: Any) -> Any:
            with record_function(f"stage {__stage}"):
                return __original(*args, **kwargs)

        setattr(owner, name, functools.wraps(original)(annotated))
        changed.append((owner, name))
    try:
        yield
    finally:
        for owner, name in changed:
            delattr(owner, name)
