"""A tiny dataset and a finished tiny run, shared by the tests of this folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_api

from tests.once import once
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.shapes import write_shapes
from training.evaluation.evaluated import open_model
from training.evaluation.validation import SCORE_THRESHOLD
from training.train import main

TINY = (
    "--recipe=shapes",
    "--threads=1",
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
    "--architecture.min_size=96",
    "--architecture.max_size=144",
)
"""Flags of a run that takes seconds."""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with 8 images to train and 4 to validate."""
    return once(tmp_path_factory, "shapes", lambda folder: write_shapes(folder, train=8, val=4, seed=0))


@pytest.fixture(scope="session")
def finished_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained, exported, passed the gate and published."""

    def train(folder: Path) -> None:
        assert main([*TINY, f"--data={shapes}", f"--output={folder}"]) == 0

    return once(tmp_path_factory, "run", train)


@pytest.fixture(scope="session")
def findable(finished_run: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, with the trained network's own detections for truth: every other one of two classes.

    The run is too short for it to find a shape.
    """

    def annotate(folder: Path) -> None:
        (folder / "images").symlink_to(shapes / "images")
        (folder / "annotations").mkdir()
        detector = open_model(str(finished_run / "checkpoints" / "best.pt"), None, "cpu", None)
        splits = find_splits(shapes, "masks")
        for name, split in (("train", splits.train), ("val", splits.val)):
            assert split is not None
            data = load_coco(*split)
            document = json.loads(split.annotations.read_text())
            annotations: list[dict[str, Any]] = []
            found = detector.detect(data, max_detections=20, score_threshold=SCORE_THRESHOLD)
            for image, detections in zip(data.images, found, strict=True):
                assert detections.masks is not None
                for row in np.flatnonzero(detections.labels <= 2)[::2].tolist():
                    mask = detections.masks[row]
                    if mask_api.area({"size": list(mask.size), "counts": mask.counts}) == 0:
                        continue
                    # The mask's own bounds: a box that has nothing to do with its mask would be a broken record.
                    x, y, width, height = mask_api.toBbox({"size": list(mask.size), "counts": mask.counts}).tolist()
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": image.id,
                            "category_id": data.label_to_category(int(detections.labels[row])),
                            "bbox": [x, y, width, height],
                            "area": width * height,
                            "segmentation": {"size": list(mask.size), "counts": mask.counts.decode()},
                        }
                    )
            (folder / "annotations" / f"instances_{name}.json").write_text(
                json.dumps(document | {"annotations": annotations})
            )

    return once(tmp_path_factory, "findable", annotate)
