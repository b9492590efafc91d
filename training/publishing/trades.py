"""Accuracy for speed, chosen at export: INT8, fewer proposals, a smaller input. The weights stay those of the training.

What a trade costs is measured as COCO AP on the validation split, recorded in the manifest, and limited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.architecture import ArchitectureConfig, Task
from model.network.build import Detector, build_unfilled
from model.network.exporting.quantize import Batch
from model.runtime.bundles.manifest import Trades
from model.runtime.preprocess import Preprocessing, prepare, stack
from training.data.annotations.dataset import Dataset
from training.data.loading.samples import load_stored
from training.evaluation.validation import main_kind

Int8 = Literal["alone", "beside"]
"""Where a bundle has INT8: as its `model.onnx`, or as a second file that the server may choose."""

CALIBRATION_IMAGES = 64
MOST_AP_LOST = 0.5
"""Points of the task's AP (0..100) that a trade may cost."""


@dataclass(frozen=True, slots=True)
class TradeOptions:
    """What to give up. None leaves proposals and input size as trained; most_ap_lost in points of the task's AP.

    INT8 beside `model.onnx` gives up nothing by itself: whoever serves the bundle chooses.
    """

    int8: Int8 | None = None
    calibration_images: int = CALIBRATION_IMAGES
    proposals: int | None = None
    min_size: int | None = None
    most_ap_lost: float = MOST_AP_LOST

    def __post_init__(self) -> None:
        if self.calibration_images < 1:
            raise ValueError(f"--calibration_images {self.calibration_images}: INT8's scales need at least one")
        if not self.most_ap_lost >= 0:
            raise ValueError(f"--most_ap_lost {self.most_ap_lost:g}: give points of AP, 0 or more")

    def __bool__(self) -> bool:
        """Whether anything of `model.onnx` is given up."""
        return self.int8 == "alone" or self.proposals is not None or self.min_size is not None

    @property
    def is_measured(self) -> bool:
        """Whether there must be data: to calibrate INT8 on, or to measure on what is lost."""
        return bool(self) or self.int8 is not None

    def record(
        self, ap_deltas: Mapping[str, float], training_images: int, other_engines: Mapping[str, Mapping[str, float]]
    ) -> Trades:
        """What the manifest says of it; of fewer training images than wished for, all calibrate."""
        alone = self.int8 == "alone"
        return Trades(
            int8=alone,
            calibration_images=min(self.calibration_images, training_images) if alone else None,
            proposals=self.proposals,
            min_size=self.min_size,
            ap_deltas=dict(ap_deltas),
            other_engines=other_engines,
        )


def traded_architecture(trained: ArchitectureConfig, options: TradeOptions) -> ArchitectureConfig:
    """The architecture that is exported: fewer proposals, a smaller input.

    The longest side falls in proportion. A network that was trained on images never shrunk must shrink them now, or a
    smaller size would change nothing. Raises ValueError where an option gives up nothing.
    """
    changes: dict[str, object] = {}
    if options.proposals is not None:
        if not 1 <= options.proposals < trained.rpn_post_nms_top_n_test:
            raise ValueError(
                f"--proposals {options.proposals}: the network was trained with {trained.rpn_post_nms_top_n_test} an "
                f"image; give fewer, and at least 1"
            )
        changes["rpn_post_nms_top_n_test"] = options.proposals
    if options.min_size is not None:
        if not 1 <= options.min_size < trained.min_size:
            raise ValueError(
                f"--min_size {options.min_size}: the network was trained with {trained.min_size} px; give less, and at "
                f"least 1"
            )
        changes["min_size"] = options.min_size
        changes["max_size"] = max(options.min_size, round(trained.max_size * options.min_size / trained.min_size))
        changes["allow_downscale"] = True
    return ArchitectureConfig.model_validate(trained.model_dump() | changes)


def rebuilt(model: Detector, architecture: ArchitectureConfig) -> Detector:
    """The same weights in a network of `architecture`, in eval mode; the model itself stays as it is."""
    other = build_unfilled(architecture)
    other.load_state_dict(model.state_dict())
    return other.eval()


def calibration_batches(data: Dataset, preprocessing: Preprocessing, images: int) -> Iterator[Batch]:
    """Up to `images` of `data` as the network takes them, one at a time, evenly spread over the dataset."""
    for index in np.linspace(0, len(data) - 1, min(images, len(data))).astype(int).tolist():
        image = load_stored(data.images[index], preprocessing.intensity, preprocessing.channels)
        yield stack([prepare(image, preprocessing)])


def points_lost(ap_deltas: Mapping[str, float], task: Task) -> float:
    """Points (0..100) of the task's AP that an export lost; negative where it gained."""
    return -100 * ap_deltas[f"{main_kind(task)}/AP"]
