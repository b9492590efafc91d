"""A compiled backbone: the same names and losses, and few compilations however many sizes come.

What a compiler would be given is traced for real; it is computed as it was traced, for a C++ compiler takes minutes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from tests.training.loop.steps import HERE
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.loop.state import State
from training.loop.step import take_step
from training.train import batches


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModule]]:
    """Every graph that a compiler would have been given."""
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setenv("CXX", "true")  # a program that is there
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield graphs
    torch.compiler.reset()


def test_compiling_keeps_the_names(
    make: Callable[..., tuple[TrainConfig, State]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = make()
    monkeypatch.setenv("CXX", "true")  # compiled when first called, which it is not here
    _, compiled = make("--compile=true", "--ema=0.9")
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert list(compiled.evaluated.state_dict()) == list(plain.model.state_dict())
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"no-such-compiler is not on the PATH.*--compile"):
        make("--compile=true")


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="float32"),
        pytest.param(("--amp=bf16", "--architecture.norm=batch_norm"), id="bf16, channels-last, batch norm"),
    ],
)
def test_crops_of_one_size_are_compiled_once_and_learned_from_as_before(
    flags: tuple[str, ...],
    make: Callable[..., tuple[TrainConfig, State]],
    train_data: Dataset,
    traced: list[GraphModule],
) -> None:
    common = ("--schedule.iterations=3", "--schedule.warmup=0", "--channels_last=None", *flags)
    losses = []
    for compiled in ("false", "true"):
        config, state = make(*common, f"--compile={compiled}")
        losses.append([take_step(config, state, [batch], HERE) for batch in batches(config, train_data, 0, HERE)])
    assert len(traced) == 1
    for plain, found in zip(*losses, strict=True):
        assert found == pytest.approx(plain, rel=1e-5)


def test_whatever_sizes_come_are_compiled_once_for_all_of_them(
    make: Callable[..., tuple[TrainConfig, State]], traced: list[GraphModule]
) -> None:
    _, state = make(
        "--compile=true", "--augment.crop=none", "--augment.crop_around=0", "--architecture.backbone=resnet18"
    )
    backbone = state.model.backbone.train()
    for height, width in ((64, 96), (128, 96), (160, 192), (64, 64)):
        assert backbone(torch.zeros(2, 3, height, width))["0"].shape[-2:] == (height // 4, width // 4)
    assert len(traced) == 1
