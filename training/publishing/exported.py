"""A trained network on its way into a bundle, and what is wished of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.network.build import Detector
from model.runtime.bundles.manifest import Provenance
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.preprocess import Preprocessing
from training.config import PublishIf, ReferenceImages
from training.data.annotations.dataset import Dataset
from training.publishing.trades import TradeOptions


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """half: store model.onnx's weights as fp16. torchscript, weights: put those files into the bundle too. references:
    which images it holds with their answers. measure_half: measure what the network loses in half precision.

    A bundle in INT8 alone has no TorchScript: it would be another network than `model.onnx`.
    """

    half: bool = False
    torchscript: bool = True
    weights: bool = True
    references: ReferenceImages = "data"
    measure_half: bool = True
    trades: TradeOptions = field(default_factory=TradeOptions)


@dataclass(frozen=True, slots=True)
class Export:
    """A trained network on its way into a bundle. `val` and `images` are what the gate compares on, the images as
    `intensity` made them.

    `train` is what INT8 is calibrated on; that and a trade need it and `val`. data_name is what people call this data.
    """

    model: Detector
    architecture: ArchitectureConfig
    class_names: tuple[str, ...]
    provenance: Provenance
    images: Sequence[NDArray[np.uint8]]
    intensity: Intensity = AUTO
    keypoint_names: tuple[str, ...] = ()
    train: Dataset | None = None
    val: Dataset | None = None
    data_name: str = ""
    max_detections: int = 100
    options: ExportOptions = ExportOptions()
    publish_if: PublishIf | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_architecture(self.architecture, self.intensity)
