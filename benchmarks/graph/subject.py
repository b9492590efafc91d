"""What `benchmarks.graph` measures: a network of torchvision's, the same exported, and the images for both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.case import FULL, TINY, make_batch, make_case
from benchmarks.peers.network import ARCHITECTURE, WEIGHTS, build
from benchmarks.peers.prepare import prepare
from model.network.exporting.export import export_onnx
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.manifest import NETWORK_FILE
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.images.decode import load_image
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing

IMAGES = 2

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """What is measured: torchvision's own model in eval mode, and the same network exported to `file`.

    images: uint8 [H, W, 3] each. few: at most so many detections are left in the second case. side: of the products.
    """

    model: Any
    file: Path
    preprocessing: Preprocessing
    images: list[Image]
    few: int
    side: int = 2048

    def predictor(self, threads: int, batch_size: int = 1) -> Predictor:
        """A session of its own."""
        return Predictor(OnnxEngine(self.file, "masks", "cpu", threads), self.preprocessing, batch_size)

    def in_bfloat16(self, threads: int) -> Predictor:
        """Raises ImportError without OpenVINO, EngineError where the processor does not compute in it."""
        from model.runtime.engines.openvino import OpenVinoEngine

        return Predictor(OpenVinoEngine(self.file, "masks", "cpu", threads, "bf16"), self.preprocessing)


def preset(folder: Path, *, quick: bool) -> Subject:
    """The R50-FPN preset at a size that neither side resizes, or a tiny network; exported into `folder`."""
    scale = TINY if quick else replace(FULL, width=1056)
    cpu = torch.device("cpu")
    case = make_case(scale, cpu)
    pixels = make_batch(scale, IMAGES, cpu, seed=1).images[:, : scale.height, : scale.width]
    export_onnx(case.model, folder / NETWORK_FILE)
    preprocessing = Preprocessing(min_size=scale.height, max_size=scale.width)
    images = [np.ascontiguousarray(image) for image in pixels.numpy()]
    size = {"few": 3, "side": 256} if quick else {"few": 10}
    return Subject(case.model, folder / NETWORK_FILE, preprocessing, images, **size)


def of_bundle(path: Path, images: Sequence[Path], folder: Path) -> Subject:
    """A bundle's network, and the same from torchvision's parts alone.

    Raises BundleError, NotTorchvisionsError, ImageError, or OSError for a picture that cannot be read.
    """
    bundle = open_bundle(path)
    prepare(bundle, folder)
    model = build(json.loads((folder / ARCHITECTURE).read_text()))
    model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    pixels = [np.array(load_image(image)) for image in images]  # torch wants them writable
    return Subject(model.eval(), bundle.file(NETWORK_FILE), bundle.manifest.preprocessing, pixels, 10)
