"""What one optimizer step does: passes that equal a larger batch, overflow in fp16, losses of a validation split."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.network.build import Detector
from training.command_line import parse_train_config
from training.config import TrainConfig
from training.data.coco import CocoData, find_splits, load_coco
from training.data.loader import Batch
from training.distributed import Process
from training.state import State, start
from training.step import take_step
from training.train import batches
from training.validation import validation_losses

from .runs import SMALL

HERE = Process(torch.device("cpu"))
ONE_POSITIVE = ("--architecture.box_batch_size_per_image=4", "--architecture.box_positive_fraction=0.25")
"""Every object is a proposal of itself: each image with an object has exactly one positive RoI in its sample."""


@pytest.fixture(scope="module")
def train_data(shapes: Path) -> CocoData:
    return load_coco(*find_splits(shapes, "masks").train)


@pytest.fixture(scope="module")
def val_data(shapes: Path) -> CocoData:
    val = find_splits(shapes, "masks").val
    assert val is not None
    return load_coco(*val)


@pytest.fixture
def make(train_data: CocoData, tmp_path: Path) -> Callable[..., tuple[TrainConfig, State]]:
    """A configuration and its fresh state: the same weights every time."""

    def build(*flags: str) -> tuple[TrainConfig, State]:
        flags = ("--augment.crop_around=1", *flags)
        config = parse_train_config([*SMALL, "--optimizer.name=sgd", *flags, f"--output={tmp_path}"])
        torch.manual_seed(0)
        return config, start(config, train_data, HERE)

    return build


def step_batches(config: TrainConfig, data: CocoData) -> list[Batch]:
    """The passes of the first step."""
    return list(batches(config, data, 0, HERE))[: config.accumulate]


def gradients(model: Detector) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def split(batch: Batch, passes: int) -> list[Batch]:
    """The batch in equal parts, in its order."""
    size = len(batch.images) // passes
    parts = range(0, len(batch.images), size)
    return [Batch(*(list(column[first : first + size]) for column in batch)) for first in parts]


def compare(whole: dict[str, Tensor], parts: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each gradient, relative to its own largest value."""
    assert whole.keys() == parts.keys()
    return {
        name: float((whole[name] - parts[name]).abs().max() / whole[name].abs().max().clamp(min=1e-12))
        for name in whole
    }


def losses_and_gradients(
    make: Callable[..., tuple[TrainConfig, State]], data: CocoData, passes: int, *flags: str
) -> tuple[dict[str, float], dict[str, Tensor]]:
    config, state = make("--batch_size=4", "--schedule.iterations=1", *flags)
    [batch] = step_batches(config, data)
    losses = take_step(config, state, split(batch, passes), HERE)
    return losses, gradients(state.model)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_passes_equal_the_larger_batch_where_every_image_fills_its_sample(
    norm: str, make: Callable[..., tuple[TrainConfig, State]], train_data: CocoData
) -> None:
    flags = (*ONE_POSITIVE, f"--architecture.norm={norm}")
    losses, whole = losses_and_gradients(make, train_data, 1, *flags)
    same, parts = losses_and_gradients(make, train_data, 2, *flags)
    assert same == pytest.approx(losses, rel=1e-5)
    assert len(whole) > 50
    assert {name: value for name, value in compare(whole, parts).items() if value > 1e-5} == {}


def test_passes_with_unequal_numbers_of_positives_differ_in_the_mask_loss_alone(
    make: Callable[..., tuple[TrainConfig, State]], train_data: CocoData
) -> None:
    """What the docstring of the step leaves open: anchors and RoIs fill their samples, positive RoIs need not."""
    losses, _ = losses_and_gradients(make, train_data, 1)
    parts, _ = losses_and_gradients(make, train_data, 2)
    different = {name for name, value in losses.items() if parts[name] != pytest.approx(value, rel=1e-5)}
    assert different == {"loss", "loss_mask"}
    assert parts["loss_mask"] == pytest.approx(losses["loss_mask"], rel=0.2)


def test_a_loader_hands_out_the_larger_batch_in_passes(
    make: Callable[..., tuple[TrainConfig, State]], train_data: CocoData
) -> None:
    whole, _ = make("--batch_size=4", "--schedule.iterations=2")
    parts, _ = make("--batch_size=2", "--accumulate=2", "--schedule.iterations=2")
    names = [name for batch in batches(whole, train_data, 0, HERE) for name in batch.names]
    assert [name for batch in batches(parts, train_data, 0, HERE) for name in batch.names] == names
    assert len(names) == 8


def test_an_overflowing_gradient_is_skipped(
    make: Callable[..., tuple[TrainConfig, State]], train_data: CocoData
) -> None:
    """In fp16 on the CPU, with a loss scale that no gradient survives, then with torch's."""
    config, state = make("--amp=fp16", "--ema=0.9", "--schedule.iterations=1")
    usual = state.scaler.state_dict()
    state.scaler.load_state_dict(usual | {"scale": 2.0**100})
    passes = step_batches(config, train_data)
    before, average = copy.deepcopy(state.model.state_dict()), copy.deepcopy(state.evaluated.state_dict())
    take_step(config, state, passes, HERE)
    assert state.scaler.get_scale() == 2.0**99
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in state.evaluated.state_dict().items())
    assert (state.iteration, state.scheduler.last_epoch) == (1, 0)

    state.scaler.load_state_dict(usual | {"scale": 2.0})
    take_step(config, state, passes, HERE)
    assert (state.iteration, state.scheduler.last_epoch) == (2, 1)
    assert any(not torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_validation_losses_change_nothing(make: Callable[..., tuple[TrainConfig, State]], val_data: CocoData) -> None:
    config, state = make("--architecture.norm=batch_norm")
    before, generator = copy.deepcopy(state.model.state_dict()), torch.get_rng_state()
    losses = validation_losses(state.model, val_data, config.architecture, HERE)
    assert set(losses) == {
        "loss",
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }
    assert losses["loss"] == pytest.approx(sum(losses.values()) - losses["loss"])
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training for module in state.model.modules())
    torch.rand(3)
    assert validation_losses(state.model, val_data, config.architecture, HERE) == losses


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


def test_sync_batch_norm_needs_gpus(make: Callable[..., tuple[TrainConfig, State]]) -> None:
    with pytest.raises(ValueError, match=r"sync_batch_norm needs several processes on GPUs"):
        make("--sync_batch_norm=true")


def test_frozen_stages_stay_as_they_are(make: Callable[..., tuple[TrainConfig, State]], train_data: CocoData) -> None:
    config, state = make("--trainable_backbone_layers=1", "--schedule.iterations=1")
    body: nn.Module = state.model.backbone.body
    before = copy.deepcopy(body.state_dict())
    take_step(config, state, step_batches(config, train_data), HERE)
    changed = {name.split(".")[0] for name, value in body.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer4"}
