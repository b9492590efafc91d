"""What the tests of an optimizer step share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.loop.steps import maker
from tests.training.runs import SMALL
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.loop.state import State


@pytest.fixture(scope="session")
def train_data(shapes: Path) -> Dataset:
    return load_coco(*find_splits(shapes, "masks").train)


@pytest.fixture
def make(train_data: Dataset, tmp_path: Path) -> Callable[..., tuple[TrainConfig, State]]:
    return maker(train_data, tmp_path, SMALL[0], "--augment.crop_around=1")
