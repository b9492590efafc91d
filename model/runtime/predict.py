"""Offline prediction: the service's preprocessing, engine and postprocessing in one call, without HTTP and a queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.bundle import Bundle
from model.runtime.detections import Detections
from model.runtime.engines.engine import DeviceChoice, Engine, EngineKind, OverlappingEngine
from model.runtime.engines.loading import load_engine
from model.runtime.images.picture import Size
from model.runtime.kernels import keypoints, masks
from model.runtime.preprocess import Prepared, Preprocessing, prepare, stack, to_original

WarmUp: TypeAlias = Literal["one", "largest", "every-bucket"]


class Predictor:
    """Images in, detections out. The evaluation, the export gate and the benchmarks run this."""

    def __init__(self, engine: Engine, preprocessing: Preprocessing, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch has at least one image")
        self.engine = engine
        self.preprocessing = preprocessing
        self.batch_size = batch_size

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        kind: EngineKind = "onnx",
        device: DeviceChoice = "auto",
        threads: int | None = None,
        batch_size: int = 1,
    ) -> Self:
        """Start the bundle's engine. Raises EngineError as `load_engine` does."""
        return cls(
            load_engine(bundle, kind, device, threads, batch_size=batch_size), bundle.manifest.preprocessing, batch_size
        )

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        score_threshold: float,
        max_detections: int | None = None,
        *,
        labels: Collection[int] | None = None,
        want_masks: bool = True,
    ) -> list[Detections]:
        """Detect in images, uint8 [H, W, C]. The answers stand in the images' order.

        Images of one bucket share batches of up to `batch_size`. `max_detections`, `labels` and `want_masks` are those
        of `to_original`; the score of a detection is strictly more than `score_threshold`.
        """
        return self.predict_prepared(
            [prepare(image, self.preprocessing) for image in images],
            score_threshold,
            max_detections,
            labels=labels,
            want_masks=want_masks,
        )

    def predict_prepared(
        self,
        images: Sequence[Prepared],
        score_threshold: float,
        max_detections: int | None = None,
        *,
        labels: Collection[int] | None = None,
        want_masks: bool = True,
    ) -> list[Detections]:
        """`predict` of images that are prepared by `preprocessing`."""
        buckets: dict[Size, list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            buckets[image.bucket].append(position)
        answers: dict[int, Detections] = {}
        for positions in buckets.values():
            for start in range(0, len(positions), self.batch_size):
                chosen = positions[start : start + self.batch_size]
                batch = [images[position] for position in chosen]
                pixels, sizes = stack(batch)
                raw = self.engine.run(pixels, sizes, np.full(len(batch), score_threshold, np.float32))
                for index, position in enumerate(chosen):
                    answers[position] = to_original(
                        raw.of_image(index),
                        batch[index],
                        max_detections=max_detections,
                        labels=labels,
                        want_masks=want_masks,
                    )
        return [answers[position] for position in range(len(images))]

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def warm_up(engine: Engine, preprocessing: Preprocessing, sizes: WarmUp = "one") -> None:
    """Run everything once, so that the first request does not pay for compiling and allocating.

    The image is the smallest that the network takes, for what costs at first is the same at any size on a CPU.
    "largest": before it the largest that a request's image can get, so that memory is taken once. "every-bucket": each
    of these sizes, the largest first, for libraries that plan for each shape and keep what they planned. The image is
    noise, and the score threshold is zero, so that the heads behind the box head run too. An engine that prepares its
    own buckets does that instead, and computes the image in one of them.
    """
    step = preprocessing.bucket_step
    smallest = (step, step)
    if isinstance(engine, OverlappingEngine):
        buckets = [engine.prepare(sizes == "every-bucket")]
    elif sizes == "one":
        buckets = [smallest]
    elif sizes == "largest":
        buckets = list(dict.fromkeys([preprocessing.buckets()[0], smallest]))
    else:
        buckets = preprocessing.buckets()
    generator = np.random.default_rng(0)
    for height, width in buckets:
        image = generator.integers(0, 256, (1, height, width, preprocessing.channels), np.uint8)
        raw = engine.run(image, np.array([[height, width]], np.int64), np.zeros(1, np.float32))
        if raw.masks is not None:
            masks.warm_up()
        if raw.keypoint_heatmaps is not None:
            keypoints.warm_up()
