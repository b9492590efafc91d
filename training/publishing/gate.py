"""The export gate: nothing is published unless it answers as the trained network does.

Exported engines run against the eager graph on real images: batches of 1, 2, 3 and 8, images of different sizes in one
batch, and one image whose threshold lets nothing through. Then, where there is a validation split, COCO AP must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.architecture import Task, has_keypoints, has_masks
from model.runtime.bundles.manifest import ExportCheck
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import Engine
from model.runtime.preprocess import Prepared, Preprocessing, prepare

GATE_IMAGES = 8
GENERATED_SIDES = ((320, 320), (240, 320), (320, 200), (280, 256))
"""(height, width) of the generated images that a model without data is compared on."""

BATCH_SIZES = (1, 2, 3, 8)
SCORE_THRESHOLD = 0.05
AP_TOLERANCE = 0.001
"""0.1 point of COCO AP."""

NOTHING = 1.0
"""A score threshold that no detection exceeds."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an exported engine may be from the eager graph.

    box in pixels of the network input, score and mask in probability, heatmap in logits. Runtimes add in different
    orders, so that a detection within rounding of a threshold may be there or not: `unmatched` is the largest share.
    """

    box: float = 0.05
    score: float = 1e-3
    mask: float = 1e-2
    heatmap: float = 5e-2
    unmatched: float = 0.005


TOLERANCE = Tolerance()


@dataclass(slots=True)
class Difference:
    """Largest differences seen so far between two engines, over matched detections."""

    detections: int = 0
    unmatched: int = 0
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    heatmap: float = 0.0

    def __str__(self) -> str:
        largest = {"boxes": (self.box, " px"), "scores": (self.score, ""), "mask probabilities": (self.mask, "")}
        largest["keypoint heatmaps"] = (self.heatmap, " logits")
        parts = [f"{what} {value:.2g}{unit}" for what, (value, unit) in largest.items() if value]
        said = f"largest differences: {', '.join(parts)}" if parts else "no difference"
        matched = f"{self.detections - self.unmatched} of {self.detections} detections found again"
        return f"{matched}; {said}" if self.unmatched else f"{self.detections} detections; {said}"

    def exceeds(self, tolerance: Tolerance) -> list[str]:
        """What is too large, in words; empty when all is well."""
        share = self.unmatched / max(1, self.detections)
        limits = (
            ("unmatched detections", share, tolerance.unmatched, "of all"),
            ("boxes", self.box, tolerance.box, "px"),
            ("scores", self.score, tolerance.score, ""),
            ("mask probabilities", self.mask, tolerance.mask, ""),
            ("keypoint heatmaps", self.heatmap, tolerance.heatmap, "logits"),
        )
        return [
            f"{what} differ by {value:.3g} {unit} (allowed {limit:g})".replace("  ", " ")
            for what, value, limit, unit in limits
            if value > limit
        ]


class Reference:
    """The trained network on the batches of the gate, each of which it answers once, however many are compared with it.

    images: uint8 [H, W, C] each. The network must not change as long as this is used.
    """

    def __init__(self, engine: Engine, images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> None:
        self._engine = engine
        self._prepared = [prepare(image, preprocessing) for image in images]
        self._answers: dict[int, RawDetections] = {}

    def compare(self, exported: Engine, progress: Callable[[int], None] | None = None) -> Difference:
        """Runs the other engine on the same batches and returns how far it is apart.

        `progress` is called after each of BATCH_SIZES with the number done.
        """
        total = Difference()
        for number, inputs in enumerate(self._batches()):
            if number not in self._answers:
                self._answers[number] = self._engine.run(*inputs)
            expected, actual = self._answers[number], exported.run(*inputs)
            for index in range(BATCH_SIZES[number]):
                compare(expected.of_image(index), actual.of_image(index), total)
            if progress is not None:
                progress(number + 1)
        return total

    def _batches(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]]:
        for number, size in enumerate(BATCH_SIZES):
            batch = [self._prepared[(number + position) % len(self._prepared)] for position in range(size)]
            thresholds = np.full(size, SCORE_THRESHOLD, np.float32)
            if size > 1:
                thresholds[-1] = NOTHING
            yield *one_canvas(batch), thresholds


def one_canvas(batch: Sequence[Prepared]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of different buckets in one batch, padded to the largest: serving never does it, the graph allows it."""
    height = max(image.bucket[0] for image in batch)
    width = max(image.bucket[1] for image in batch)
    pixels = np.zeros((len(batch), height, width, batch[0].pixels.shape[2]), np.uint8)
    for row, image in enumerate(batch):
        pixels[row, : image.valid[0], : image.valid[1]] = image.pixels[: image.valid[0], : image.valid[1]]
    return pixels, np.array([image.valid for image in batch], np.int64)


def compare(expected: RawDetections, actual: RawDetections, total: Difference) -> None:
    """Adds one image's differences to `total`; detections are matched by label and nearest box, best score first."""
    total.detections += len(expected.scores)
    free = np.ones(len(actual.scores), np.bool_)
    for row in range(len(expected.scores)):
        distance = np.abs(actual.boxes - expected.boxes[row]).max(axis=1, initial=0.0)
        distance[~free | (actual.labels != expected.labels[row])] = np.inf
        nearest = int(distance.argmin()) if len(distance) else -1
        if nearest < 0 or distance[nearest] > 1.0:
            total.unmatched += 1
            continue
        free[nearest] = False
        total.box = max(total.box, float(distance[nearest]))
        total.score = max(total.score, abs(float(actual.scores[nearest] - expected.scores[row])))
        if expected.masks is not None and actual.masks is not None:
            total.mask = max(total.mask, float(np.abs(actual.masks[nearest] - expected.masks[row]).max()))
        if expected.keypoint_heatmaps is not None and actual.keypoint_heatmaps is not None:
            apart = np.abs(actual.keypoint_heatmaps[nearest] - expected.keypoint_heatmaps[row]).max()
            total.heatmap = max(total.heatmap, float(apart))
    total.unmatched += int(free.sum())


def ap_differences(trained: Mapping[str, float], exported: Mapping[str, float]) -> dict[str, float]:
    """Exported minus trained for every AP figure (0..1) that both have."""
    return {name: exported[name] - trained[name] for name in trained if name.endswith("/AP") and name in exported}


def export_check(difference: Difference, images: int, ap_deltas: Mapping[str, float], task: Task) -> ExportCheck:
    """The gate's figures as the manifest keeps them."""
    return ExportCheck(
        images=images,
        batch_sizes=BATCH_SIZES,
        max_box_error=difference.box,
        max_score_error=difference.score,
        max_mask_error=difference.mask if has_masks(task) else None,
        max_keypoint_error=difference.heatmap if has_keypoints(task) else None,
        ap_deltas=dict(ap_deltas),
    )


def generated_images(seed: int = 0, channels: int = 3) -> list[NDArray[np.uint8]]:
    """Images for the gate where a model comes without data: smooth blobs over noise, uint8 [H, W, C], several sizes."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(GATE_IMAGES):
        height, width = GENERATED_SIDES[number % len(GENERATED_SIDES)]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        picture = rng.normal(110, 12, (height, width, channels)).astype(np.float32)
        for _ in range(6):
            center, radius = rng.uniform(0, (height, width)), rng.uniform(15, 90)
            blob = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * radius**2))
            picture += blob[..., None] * rng.uniform(-140, 140, channels).astype(np.float32)
        images.append(picture.clip(0, 255).astype(np.uint8))
    return images
