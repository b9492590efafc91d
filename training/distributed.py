"""The processes of one run: what torchrun says about them, and how they talk.

    torchrun --nproc_per_node=2 -m training.train --recipe nuclei --data DIR

Every process computes its part of each batch; the first one alone writes logs, checkpoints and the bundle.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.runtime.engines.devices import check_device, gpu_index

T = TypeVar("T")
STEP_PATIENCE = timedelta(minutes=10)
"""How long processes wait for each other within a step, where all of them have as much to do. What is lost by then, a
machine or the network to it, does not come back.
"""
PATIENCE = timedelta(hours=6)
"""How long they wait between steps: the first one reads the data, computes AP and draws pictures meanwhile."""

VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

LOST: Final = re.compile("gloo/|NCCL")
"""What torch's RuntimeError speaks of when another process of the run does not answer."""
PLACE: Final = re.compile(r"^\[.*?\] ")
"""Where in torch's own files it begins."""


class ProcessLost(Exception):
    """Another process of the run is gone, or the network to it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Process:
    """This process. device: where it computes. rank: its number, from 0, of `count`. here: how many of these this
    machine has.

    group: in which they wait for the first one and exchange what is not a tensor. step_group: the same within a step;
    None: the default one.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None
    step_group: dist.ProcessGroup | None = None
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def table(self, values: Tensor) -> Tensor:
        """`values` of every process: [N] on each -> [count, N], on the same device."""
        if self.count == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(rows, values)
        return torch.stack(rows)

    def gather(self, value: T) -> list[T]:
        """`value` of every process, in the first process; nothing in the others. Any object that pickles."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.gather_object(value, values if self.first else None, dst=0, group=self.group)
        return values if self.first else []

    def agree(self, value: T, *, within_a_step: bool = False) -> T:
        """The first process's `value`, in every process."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, src=0, group=self.step_group if within_a_step else self.group)
        return values[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers: batch norm's statistics are otherwise of its own images."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def close(self) -> None:
        """Leaves the group."""
        if self.count > 1:
            dist.destroy_process_group()


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Around whatever waits for other processes. Raises ProcessLost for what torch says when one does not answer."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or LOST.search(str(error))):
            raise
        reason = PLACE.sub("", str(error).strip()).splitlines()[0].partition(". ")[0]
        raise ProcessLost(
            f"another process of the run is gone, or the network to it ({reason}): start all of them again, and they "
            f"go on from the last checkpoint"
        ) from error


def join(device: str) -> Process:
    """This process, as torchrun's variables say; `device` is "cpu", "cuda" or "cuda:N". Waits for the others.

    Raises ValueError when the variables are incomplete or this machine lacks the device.
    """
    check_device(device)
    count = _number(os.environ, "WORLD_SIZE")
    if count == 1:
        require_device(device)
        place = torch.device(device)
        if place.type == "cuda":
            # Streams, events and new tensors are otherwise on the first one.
            torch.cuda.set_device(place.index or 0)
        return Process(place)
    rank, local = _place(os.environ, count)
    here = _number(os.environ, "LOCAL_WORLD_SIZE", otherwise=count)
    if device == "cpu":
        dist.init_process_group("gloo", timeout=STEP_PATIENCE)
        return Process(torch.device("cpu"), rank, count, _gloo(PATIENCE), here=here)
    if device != "cuda":
        raise ValueError(f"device {device} is one GPU, but there are {count} processes: leave out its number")
    require_gpus(local + 1, f"process {local} of this machine needs a GPU of its own; start fewer (--nproc_per_node)")
    place = torch.device("cuda", local)
    torch.cuda.set_device(place)
    dist.init_process_group("nccl", device_id=place, timeout=STEP_PATIENCE)
    return Process(place, rank, count, _gloo(PATIENCE), _gloo(STEP_PATIENCE), here)


def require_device(device: str) -> None:
    """Raises ValueError where a process of its own could not compute on "auto", "cpu", "cuda" or "cuda:N" here."""
    check_device(device)
    if device.startswith("cuda"):
        require_gpus(1 + gpu_index(device), f"device {device}")


def require_gpus(count: int, what: str) -> None:
    """Raises ValueError, which says `what` needs them, where torch does not see so many GPUs."""
    found = torch.cuda.device_count()
    if found < count:
        raise ValueError(f"{what}: torch finds {found} GPUs here; --device cpu takes the CPU")


def _gloo(patience: timedelta) -> dist.ProcessGroup:
    """All processes once more, over the CPU's network."""
    group = dist.new_group(backend="gloo", timeout=patience)
    assert isinstance(group, dist.ProcessGroup)  # it is none where this process is left out
    return group


def _place(environment: Mapping[str, str], count: int) -> tuple[int, int]:
    """This process's number, in all and on this machine."""
    missing = [name for name in VARIABLES if name not in environment]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set: start several processes with "
            f"`torchrun --nproc_per_node={count} -m training.train ...`, or unset WORLD_SIZE to train in one"
        )
    rank = _number(environment, "RANK")
    if rank >= count:
        raise ValueError(f"RANK is {rank}, but WORLD_SIZE is {count}: ranks are 0 to {count - 1}")
    return rank, _number(environment, "LOCAL_RANK")


def _number(environment: Mapping[str, str], name: str, otherwise: int = 1) -> int:
    text = environment.get(name, str(otherwise))
    if not text.isdecimal() or (name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") and int(text) == 0):
        raise ValueError(f"{name} is {text!r}, which is no number of processes: let torchrun set it, or unset it")
    return int(text)
