"""A model is evaluated on what its training held out, or a warning says that it may not be."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from model.runtime.bundles.repository import Repository
from tests.training.data.coco_folder import Box, noise, write_split
from training.config import TrainConfig
from training.data.checking.content import fingerprint
from training.data.formats.locate import Origin
from training.data.loading.source import load_divided, load_split, load_training_data, sound
from training.evaluation.evaluated import open_model
from training.evaluation.own_split import Learned, divide_as_in_training


def write(folder: Path, first: int = 0) -> Path:
    pictures = [noise((90, 60), first + number) for number in range(12)]
    write_split(folder, "train", pictures, [[Box((5, 5, 20, 20), 1 + number % 2)] for number in range(12)])
    return folder


@pytest.mark.parametrize(
    ("known_share", "asked", "other_data", "own"),
    [
        pytest.param(0.25, (0.25, 3), False, True, id="as in training"),
        pytest.param(0.25, (0.25, 0), False, True, id="another seed, a checkpoint"),
        pytest.param(0.25, (0.5, 0), False, True, id="another share, a checkpoint"),
        pytest.param(None, (0.25, 0), False, True, id="another seed, a bundle"),
        pytest.param(None, (0.5, 3), False, False, id="another share, which a bundle does not know"),
        pytest.param(0.25, (0.25, 3), True, False, id="other data"),
    ],
)
def test_the_split_of_the_training(
    tmp_path: Path, known_share: float | None, asked: tuple[float, int], other_data: bool, own: bool
) -> None:
    data = write(tmp_path / "data")
    trained = load_training_data(TrainConfig(data=data, output=tmp_path / "run", val=0.25, seed=3))
    assert trained.val is not None
    learned = Learned(fingerprint(trained.train), 3, known_share)
    origin = Origin(write(tmp_path / "other", 50) if other_data else data)
    read = partial(load_divided, origin, "masks", rename={}, classes=())
    found = divide_as_in_training(read, learned, asked, "masks", trained.train.class_names)
    held_out = {record.file for record in found.splits["val"].images}
    if own:
        assert held_out == {record.file for record in trained.val.images}
        assert found.line.startswith("the split of the model's training: --val 0.25 --seed 3")
        assert (f"not --val {asked[0]:g} --seed {asked[1]}" in found.line) is (asked != (0.25, 3))
    else:
        assert held_out == {record.file for record in read(*asked)["val"].images}
        assert found.line.startswith("warning: ")


def test_a_model_that_does_not_say_what_it_learned_from(tmp_path: Path) -> None:
    read = partial(load_divided, Origin(write(tmp_path)), "masks", rename={}, classes=())
    found = divide_as_in_training(read, None, (0.25, 1), "masks", ("cat", "dog"))
    assert found.line.startswith("warning: --val 0.25 --seed 1")


def test_bundles_and_checkpoints_say_what_they_have_learned_from(finished_run: Path, shapes: Path) -> None:
    train = sound(load_split(Origin(shapes), "masks", "train", rename={}, classes=()), "masks", "stop")
    checkpoint = open_model(str(finished_run / "checkpoints/best.pt"), None, "cpu", None)
    bundle = open_model(str(Repository(finished_run / "models").latest("shapes").path), None, "cpu", None)
    assert checkpoint.learned == bundle.learned == Learned(fingerprint(train), 0)
