"""A tiny dataset and a finished tiny run, shared by the tests of this folder."""

from pathlib import Path

import pytest

from training.data.shapes import write_shapes
from training.train import main

TINY = (
    "--recipe=shapes",
    "--workers=0",
    "--batch_size=2",
    "--checkpoint_every=2",
    "--log_every=1",
    "--schedule.iterations=6",
    "--schedule.warmup=2",
    "--validation.every=3",
    "--validation.samples=2",
    "--architecture.fpn_channels=16",
    "--architecture.box_head_channels=32",
    "--architecture.mask_head_convs=[16]",
    "--architecture.mask_predictor_channels=16",
    "--architecture.rpn_pre_nms_top_n_test=50",
    "--architecture.rpn_post_nms_top_n_test=50",
    "--architecture.detections_per_image=20",
)
"""Flags of a run that takes seconds."""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with 8 images to train and 4 to validate."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    write_shapes(folder, train=8, val=4, seed=0)
    return folder


@pytest.fixture(scope="session")
def finished_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained, exported, passed the gate and published."""
    folder = tmp_path_factory.mktemp("run")
    assert main([*TINY, f"--data={shapes}", f"--output={folder}"]) == 0
    return folder
