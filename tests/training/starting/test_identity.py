"""Which differences make another run of it, and what the refusal says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.checkpoint import Checkpoint, CheckpointError, TrainedOn
from training.command_line import parse_train_config
from training.config import TrainConfig, flat_fields
from training.starting.identity import MAY_CHANGE, require_same_configuration, require_same_data

FLAGS = ["--recipe=shapes", "--data=shapes"]
TRAINED_ON = TrainedOn("shapes", images=8, instances=20, train="11aa", val="22bb")
HERE = Path("run/checkpoints/last.pt")


def checkpoint(**changes: Any) -> Checkpoint:
    config = parse_train_config(FLAGS).model_dump(mode="json")
    fields: dict[str, Any] = {"model": {}, "optimizer": {}, "scheduler": {}, "scaler": {}, "best": -1.0}
    fields |= {"iteration": 3, "config": config, "class_names": ("disc", "ring"), "keypoint_names": ()}
    return Checkpoint(**(fields | {"run": "ab", "trained_on": TRAINED_ON, "step_images": 4} | changes))


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        pytest.param(["--workers=0", "--threads=2", "--device=cpu"], None, id="who computes"),
        pytest.param(["--log_every=1", "--checkpoint_every=7", "--loggers=mlflow"], None, id="what is written"),
        pytest.param(["--schedule.iterations=123456"], None, id="more iterations"),
        pytest.param(["--data=elsewhere/shapes", "--repository=models"], None, id="places"),
        pytest.param(["--batch_size=1", "--accumulate=9"], None, id="passes, counted by themselves"),
        pytest.param(["--optimizer.rate=0.123"], "optimizer.rate was 0.001 and is 0.123", id="a rate"),
        pytest.param(["--seed=7"], "seed was 0 and is 7", id="a seed"),
        pytest.param(["--amp=bf16"], "amp was none and is bf16", id="a precision"),
        pytest.param(["--ema=0.9"], "ema was null and is 0.9", id="an average"),
        pytest.param(["--augment.blur=1"], r"augment.blur was 0.0 and is 1.0", id="an augmentation"),
        pytest.param(["--start_from=imagenet"], "start_from was random and is imagenet", id="first weights"),
        pytest.param(
            ["--architecture.fpn_channels=8", "--seed=1"], r"seed was.*; architecture.fpn_channels was", id="two"
        ),
    ],
)
def test_configurations(flags: list[str], refused: str | None) -> None:
    config = parse_train_config([*FLAGS, *flags])
    if refused is None:
        require_same_configuration(checkpoint(), config, HERE)
        return
    with pytest.raises(CheckpointError, match=f"{HERE} is of another run: .*{refused}.*--resume never"):
        require_same_configuration(checkpoint(), config, HERE)


def test_what_may_change_are_fields() -> None:
    assert {name for name, _ in flat_fields(TrainConfig())} > MAY_CHANGE


@pytest.mark.parametrize(
    ("now", "refused"),
    [
        pytest.param({"dataset": "shapes, moved"}, None, id="called otherwise"),
        pytest.param({"train": "33cc", "dataset": "cells"}, r"learned from shapes \(8 images, 20 objects\)", id="data"),
        pytest.param({"val": "44dd"}, "its validation split is another", id="another validation split"),
        pytest.param({"val": None}, "its validation split is gone", id="no validation split"),
    ],
)
def test_data(now: dict[str, Any], refused: str | None) -> None:
    given = replace(TRAINED_ON, **now)
    if refused is None:
        require_same_data(checkpoint(), given, ("disc", "ring"), 4, HERE)
        return
    with pytest.raises(CheckpointError, match=f"{refused}.*--resume never"):
        require_same_data(checkpoint(), given, ("disc", "ring"), 4, HERE)


@pytest.mark.parametrize(
    ("names", "images", "refused"),
    [
        pytest.param(("ring", "disc"), 4, "were disc, ring and are ring, disc", id="classes in another order"),
        pytest.param(("disc", "ring"), 8, "its steps had 4 images and have 8", id="larger steps"),
    ],
)
def test_classes_and_steps(names: tuple[str, ...], images: int, refused: str) -> None:
    with pytest.raises(CheckpointError, match=refused):
        require_same_data(checkpoint(), TRAINED_ON, names, images, HERE)


def test_checkpoints_of_older_releases_know_data_by_its_place() -> None:
    old = checkpoint(run=None, trained_on=None, step_images=None)
    require_same_configuration(old, parse_train_config(FLAGS), HERE)
    require_same_data(old, TRAINED_ON, ("disc", "ring"), 8, HERE)
    with pytest.raises(CheckpointError, match="data was shapes and is cells"):
        require_same_configuration(old, parse_train_config([FLAGS[0], "--data=cells"]), HERE)
