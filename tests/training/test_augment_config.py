"""Augmentations that contradict each other or the task are refused before anything runs."""

from typing import Any

import pytest
from pydantic import ValidationError

from training.command_line import parse_train_config
from training.config import TrainConfig


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        pytest.param({"crop": 64, "jitter": (2, 1)}, "augment.jitter must be two rising", id="crossed jitter"),
        pytest.param({"crop": 64, "jitter": (0, 1)}, "augment.jitter must be two rising", id="jitter of nothing"),
        pytest.param({"jitter": (0.1, 2)}, "augment.jitter is about windows", id="jitter without windows"),
        pytest.param({"scale": (0.5, 2)}, "augment.scale is about windows", id="scale without windows"),
        pytest.param({"crop_around": 0.5}, "augment.crop_around is about windows", id="around without windows"),
        pytest.param({"crop": 64, "min_sizes": (64, 96)}, "give one of them", id="windows and whole images"),
        pytest.param({"crop": 64, "jitter": (0.1, 2), "scale": (0.5, 2)}, "give one of them", id="two scales"),
        pytest.param({"min_sizes": (640, 1400)}, "architecture.max_size, 1333", id="larger than the largest"),
        pytest.param({"min_sizes": (0,)}, "min_sizes", id="no size"),
        pytest.param({"blur": -1}, "blur", id="negative blur"),
    ],
)
def test_contradictions_are_named(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"augment": augment})


@pytest.mark.parametrize("task", ["boxes", "keypoints"])
def test_pasting_needs_masks(task: str) -> None:
    values = {"architecture": {"task": task}, "augment": {"copy_paste": 0.5}}
    with pytest.raises(ValidationError, match=f"copy_paste needs masks.*'{task}'"):
        TrainConfig.model_validate(values)
    assert TrainConfig.model_validate(values | {"architecture": {"task": "masks_keypoints"}}).augment.copy_paste == 0.5


def test_a_recipe_with_windows_takes_jitter_as_flags() -> None:
    config = parse_train_config(["--recipe=nuclei", "--augment.jitter=[0.1, 2]", "--augment.scale=[1, 1]"])
    assert config.augment.jitter == (0.1, 2)
    assert config.augment.crop == 256
