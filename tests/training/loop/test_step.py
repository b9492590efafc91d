"""What one optimizer step does: passes that equal a larger batch, overflow in fp16, losses of a validation split."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.loop.steps import HERE, compare, gradients, maker, step_batches
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.figures import write_figures
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.loading.loader import Batch
from training.loop.sampling import begin_batch, count_ahead, drawn_counts
from training.loop.state import State
from training.loop.step import take_step
from training.loop.validation_losses import validation_losses
from training.train import batches

ONE_POSITIVE = ("--architecture.box_batch_size_per_image=4", "--architecture.box_positive_fraction=0.25")
"""Every object is a proposal of itself: each image with an object has exactly one positive RoI in its sample."""


@pytest.fixture(scope="module")
def val_data(shapes: Path) -> Dataset:
    val = find_splits(shapes, "masks").val
    assert val is not None
    return load_coco(*val)


@pytest.fixture(scope="module")
def figures_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("figures") / "data"
    write_figures(folder, train=8, val=2, seed=0, size=96)
    return load_coco(*find_splits(folder, "masks_keypoints").train)


@pytest.fixture
def make_figures(figures_data: Dataset, tmp_path: Path) -> Callable[..., tuple[TrainConfig, State]]:
    keypoints = f"--architecture.num_keypoints={figures_data.num_keypoints}"
    narrow = "--architecture.keypoint_head_convs=[16]"
    return maker(figures_data, tmp_path, "--recipe=figures", "--amp=none", keypoints, narrow)


def split(batch: Batch, passes: int) -> list[Batch]:
    """The batch in equal parts, in its order."""
    size = len(batch.images) // passes
    parts = range(0, len(batch.images), size)
    return [Batch(*(list(column[first : first + size]) for column in batch)) for first in parts]


def losses_and_gradients(
    make: Callable[..., tuple[TrainConfig, State]], data: Dataset, passes: int, *flags: str
) -> tuple[dict[str, float], dict[str, Tensor]]:
    config, state = make("--batch_size=4", "--schedule.iterations=1", *flags)
    [batch] = step_batches(config, data)
    losses = take_step(config, state, split(batch, passes), HERE)
    return losses, gradients(state.model)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--architecture.norm=frozen_batch_norm",), id="frozen"),
        pytest.param(("--architecture.norm=group_norm", "--amp=bf16"), id="bf16"),
        pytest.param(ONE_POSITIVE, id="one positive an image"),
    ],
)
def test_passes_equal_the_larger_batch(
    flags: tuple[str, ...], make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset
) -> None:
    """With unequal numbers of positive RoIs, too."""
    losses, whole = losses_and_gradients(make, train_data, 1, *flags)
    same, parts = losses_and_gradients(make, train_data, 2, *flags)
    coarse = "--amp=bf16" in flags
    assert same == pytest.approx(losses, rel=2e-2 if coarse else 1e-5)
    assert len(whole) > 50
    if not coarse:
        assert {name: value for name, value in compare(whole, parts).items() if value > 1e-5} == {}


def test_passes_have_unequal_numbers_of_positives(
    make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset
) -> None:
    """Else the test above would not show that they are counted."""
    config, state = make("--batch_size=4", "--schedule.iterations=1")
    state.model.train()
    counts = []
    for part in split(*step_batches(config, train_data), 2):
        begin_batch(state.model, [(number,) for number in range(2)])
        counts.append(count_ahead(state.model, [image.float() / 255 for image in part.images], part.targets))
    assert counts[0].positives != counts[1].positives
    assert counts[0].keypoints == counts[0].positives


def test_passes_with_keypoints_equal_the_larger_batch(
    make_figures: Callable[..., tuple[TrainConfig, State]], figures_data: Dataset
) -> None:
    """Whose loss is a mean over visible keypoints, of which figures have unequally many."""
    losses, whole = losses_and_gradients(make_figures, figures_data, 1)
    same, parts = losses_and_gradients(make_figures, figures_data, 2)
    assert same == pytest.approx(losses, rel=1e-5)
    assert "loss_keypoint" in losses
    # A softmax over positions does not see a bias that all of them share: its gradient is rounding.
    del whole["roi_heads.keypoint_predictor.kps_score_lowres.bias"]
    del parts["roi_heads.keypoint_predictor.kps_score_lowres.bias"]
    assert {name: value for name, value in compare(whole, parts).items() if value > 1e-5} == {}


@pytest.mark.parametrize("synchronized", [False, True], ids=["BatchNorm2d", "SyncBatchNorm"])
def test_counting_ahead_leaves_the_statistics_alone(
    synchronized: bool, make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset
) -> None:
    config, state = make("--architecture.norm=batch_norm", "--batch_size=4", "--schedule.iterations=1")
    [batch] = step_batches(config, train_data)
    if synchronized:
        state.model = nn.SyncBatchNorm.convert_sync_batchnorm(state.model)
    before = copy.deepcopy(state.model.state_dict())
    state.model.train()
    begin_batch(state.model, [(number,) for number in range(4)])
    images = [image.float() / 255 for image in batch.images]
    ahead = count_ahead(state.model, images, batch.targets)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    begin_batch(state.model, [(number,) for number in range(4)])
    state.model(images, batch.targets)
    assert drawn_counts(state.model) == ahead, "what is counted is what the pass draws"
    changed = {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in changed)


def test_a_loader_hands_out_the_larger_batch_in_passes(
    make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset
) -> None:
    whole, _ = make("--batch_size=4", "--schedule.iterations=2")
    parts, _ = make("--batch_size=2", "--accumulate=2", "--schedule.iterations=2")
    names = [name for batch in batches(whole, train_data, 0, HERE) for name in batch.names]
    assert [name for batch in batches(parts, train_data, 0, HERE) for name in batch.names] == names
    assert len(names) == 8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_overflowing_gradient_is_skipped(
    optimizer: str, make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset
) -> None:
    """In fp16 on the CPU, with a loss scale that no gradient survives, then with torch's."""
    config, state = make("--amp=fp16", "--ema=0.9", "--schedule.iterations=1", f"--optimizer.name={optimizer}")
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


def test_validation_losses_change_nothing(make: Callable[..., tuple[TrainConfig, State]], val_data: Dataset) -> None:
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


def test_sync_batch_norm_needs_gpus(make: Callable[..., tuple[TrainConfig, State]]) -> None:
    with pytest.raises(ValueError, match=r"sync_batch_norm needs several processes on GPUs"):
        make("--sync_batch_norm=true")


@pytest.mark.parametrize(
    ("flags", "layout"),
    [
        pytest.param((), torch.contiguous_format, id="float32"),
        pytest.param(("--amp=bf16",), torch.channels_last, id="mixed precision"),
        pytest.param(("--amp=bf16", "--channels_last=false"), torch.contiguous_format, id="as it is said"),
    ],
)
def test_mixed_precision_computes_channels_last(
    flags: tuple[str, ...], layout: torch.memory_format, make: Callable[..., tuple[TrainConfig, State]]
) -> None:
    _, state = make("--channels_last=None", *flags)
    assert state.model.backbone.body.conv1.weight.is_contiguous(memory_format=layout)


def test_frozen_stages_stay_as_they_are(make: Callable[..., tuple[TrainConfig, State]], train_data: Dataset) -> None:
    config, state = make("--trainable_backbone_layers=1", "--schedule.iterations=1")
    body: nn.Module = state.model.backbone.body
    before = copy.deepcopy(body.state_dict())
    take_step(config, state, step_batches(config, train_data), HERE)
    changed = {name.split(".")[0] for name, value in body.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer4"}
