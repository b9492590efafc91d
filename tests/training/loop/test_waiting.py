"""That between a step's backward pass and the optimizer's the host waits for nothing, seen without a GPU.

There it waits where an operation reads values of a tensor, and such an operation can be seen on any device.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.loop.steps import HERE, step_batches
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.loop.optimization import make_optimizer
from training.loop.state import State
from training.loop.step import take_step

READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "nonzero_numpy", "_unique2"}
"""Operations of aten whose result, or whose result's shape, the host cannot know before the GPU is done."""


class Waits(TorchDispatchMode):
    """Notes operations that read values; an index of truth values is one, for it is made into numbers first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        name = func.overloadpacket.__name__
        indices = tree_leaves(args[1]) if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
        if name in READS or any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def waits_between(state: State, monkeypatch: pytest.MonkeyPatch) -> Waits:
    """What will be seen from the next backward pass on until the loss scale is updated, behind the optimizer's step."""
    waits, watching = Waits(), ExitStack()
    backward, update = torch.autograd.backward, state.scaler.update

    def begin(*arguments: Any, **options: Any) -> None:
        watching.enter_context(waits)
        backward(*arguments, **options)

    def end() -> None:
        update()
        watching.close()

    monkeypatch.setattr(torch.autograd, "backward", begin)
    monkeypatch.setattr(state.scaler, "update", end)
    return waits


@pytest.fixture
def make_unthreaded(
    make: Callable[..., tuple[TrainConfig, State]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[TrainConfig, State]]:
    """RoIAlign in threads is for CPUs alone."""
    monkeypatch.setattr("training.loop.state.align_in_threads", lambda model: 0)
    return make


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="float32"),
        pytest.param(("--amp=bf16", "--optimizer.clip_norm=1"), id="bf16, clipped"),
        pytest.param(("--amp=fp16",), id="fp16"),
        pytest.param(("--amp=fp16", "--optimizer.name=adamw", "--optimizer.clip_norm=1"), id="fp16, AdamW, clipped"),
    ],
)
def test_nothing_waits_between_backward_and_the_optimizer(
    flags: tuple[str, ...],
    make_unthreaded: Callable[..., tuple[TrainConfig, State]],
    train_data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, state = make_unthreaded("--schedule.iterations=1", *flags)
    waits = waits_between(state, monkeypatch)
    take_step(config, state, step_batches(config, train_data), HERE)
    assert waits.operations > 300
    assert waits.found == []


def test_an_optimizer_of_many_kernels_waits_for_the_overflow(
    make_unthreaded: Callable[..., tuple[TrainConfig, State]], train_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp16: what the test above would see, and why the optimizer is fused."""
    monkeypatch.setattr(
        "training.loop.state.make_optimizer",
        lambda model, config, images, fused: make_optimizer(model, config, images),
    )
    config, state = make_unthreaded("--schedule.iterations=1", "--amp=fp16")
    waits = waits_between(state, monkeypatch)
    take_step(config, state, step_batches(config, train_data), HERE)
    assert waits.found == ["aten._local_scalar_dense.default"]
