"""Renders one image's detections: the JSON of the contract, COCO results, or the picture with the detections on it.

All of it runs on the postprocess pool's threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.runtime.analysis.findings import Findings
from model.runtime.detections import RLE, Detections
from model.runtime.images.picture import PixelSize
from model.runtime.images.planes import Channels, PlaneAxis
from model.runtime.images.regions import PictureByRegion
from model.runtime.images.values.intensity import Applied
from model.runtime.images.values.pixels import Done, shown
from model.runtime.kernels.masks import to_polygons, to_uncompressed
from model.runtime.overlay import draw_overlay, to_png
from service.models.catalog import ServedModel
from service.observability.record import ImageRecord
from service.prediction.parameters import MaskFormat

STAGES = ("decode", "queue", "inference", "postprocess")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was found in an image. `truncated`: a limit cut detections off, or may have. `tiles` is None for one that
    was seen whole."""

    detections: Detections
    truncated: bool = False
    tiles: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """One image's answer before it is rendered.

    `size` is (height, width) of the image as seen; `image` is uint8 [H, W, C], or None unless it was asked for, and so
    are `values`, the image as its file holds it, see `Picture`, or to be read part by part.
    `intensity` is what was done to its values, or None if they were 8 bits and stayed as they are.
    `plane` says which of the file's planes the image is, for each axis along which it has several, `channels` which of
    its channels, where they were taken one by one. `pixel_size` is None where nobody states it, `scale` where none was
    asked for.
    """

    model: ServedModel
    size: tuple[int, int]
    seen: Seen
    record: ImageRecord
    image: NDArray[np.uint8] | None = None
    values: NDArray[Any] | PictureByRegion | None = None
    intensity: Done = None
    plane: tuple[PlaneAxis, ...] = ()
    channels: Channels | None = None
    pixel_size: PixelSize | None = None
    scale: float | None = None

    @property
    def detections(self) -> Detections:
        return self.seen.detections


def prediction(detected: Detected, masks: MaskFormat) -> dict[str, Any]:
    """The contract's answer, ready for `to_json`: columns side by side in falling score."""
    model, detections = detected.model, detected.detections
    answer: dict[str, Any] = {
        "model": model_said(model),
        "image": image_said(detected),
        "boxes": detections.boxes,
        "labels": [model.label_names[label] for label in detections.labels],
        "label_ids": detections.labels,
        "scores": detections.scores,
    }
    if detections.masks is not None and masks != "none":
        answer["masks"] = [mask_said(mask, masks) for mask in detections.masks]
    if detections.keypoints is not None:
        answer["keypoints"] = detections.keypoints
    answer["truncated"] = detected.seen.truncated
    answer["timing_ms"] = timing_said(detected)
    return answer


def columns_said(detected: Detected, masks: MaskFormat) -> list[str]:
    """The columns that `prediction` has, which those who see a detection at a time cannot tell where there is none."""
    has_masks = detected.detections.masks is not None and masks != "none"
    has_keypoints = detected.detections.keypoints is not None
    return ["boxes", "labels", "label_ids", "scores", *["masks"] * has_masks, *["keypoints"] * has_keypoints]


def model_said(model: ServedModel) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "precision": model.precision}


def timing_said(detected: Detected) -> dict[str, float]:
    """Milliseconds by stage."""
    seconds = detected.record.stage_seconds()
    return {stage: round(seconds.get(stage, 0.0) * 1e3, 3) for stage in STAGES}


def plane_said(axes: tuple[PlaneAxis, ...]) -> dict[str, Any]:
    return {axis.name: {"index": axis.index, "of": axis.size} for axis in axes}


def image_said(detected: Detected) -> dict[str, Any]:
    """What was seen: its size, tiles, plane and so on."""
    height, width = detected.size
    image: dict[str, Any] = {"width": width, "height": height}
    if detected.seen.tiles is not None:
        image["tiles"] = detected.seen.tiles
    if detected.scale is not None:
        image["scale"] = detected.scale
    if detected.channels is not None:
        image["channels"] = _channels(detected.channels, detected.intensity)
    else:
        image |= _intensity(detected.intensity)
    if detected.plane:
        image["plane"] = plane_said(detected.plane)
    if (pixel := detected.pixel_size) is not None:
        image["pixel_size_um"] = {"x": pixel.x, "y": pixel.y, "source": pixel.source}
    return image


def coco_results(detections: Detections, masks: MaskFormat, image_id: int | str) -> list[dict[str, Any]]:
    """COCO's results format: an entry a detection, `bbox` as x, y, width, height. `category_id` is the label id.

    As polygons, `segmentation` holds the outer rings alone, as COCO's has no holes.
    """
    corners = detections.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
    entries: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(label), "bbox": box, "score": score}
        for label, box, score in zip(detections.labels, boxes, detections.scores, strict=True)
    ]
    if detections.masks is not None and masks != "none":
        for entry, mask in zip(entries, detections.masks, strict=True):
            polygons = masks == "polygon"
            entry["segmentation"] = [part[0] for part in to_polygons(mask)] if polygons else mask_said(mask, masks)
    if detections.keypoints is not None:
        for entry, keypoints in zip(entries, detections.keypoints, strict=True):
            entry["keypoints"] = keypoints.reshape(-1)
    return entries


def findings(detected: Detected) -> Findings:
    """For the files that analysis tools open."""
    return Findings(
        detected.detections,
        detected.model.label_names[1:],
        detected.size,
        detected.values,
        detected.pixel_size,
        detected.plane,
        detected.seen.truncated,
        () if detected.channels is None else detected.channels.used,
    )


def picture(detected: Detected) -> bytes:
    """The image as a PNG with the detections drawn on it. It must have been asked for."""
    assert detected.image is not None, "decode with keep_image"
    return to_png(draw_overlay(shown(detected.image), detected.detections, detected.model.label_names[1:]))


def to_json(answer: Any) -> bytes:
    """UTF-8 JSON. float32 values are written with the fewest digits that read back the same."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _channels(channels: Channels, done: Done) -> list[dict[str, Any] | None]:
    """Which of the file's channels each input of the network is, and what was done to its values; None is black."""
    applied = done if isinstance(done, tuple) else (None,) * len(channels.taken)
    return [
        None if index is None else {"index": index, "of": channels.size, **_intensity(one)}
        for index, one in zip(channels.taken, applied, strict=True)
    ]


def _intensity(applied: Done) -> dict[str, Any]:
    if not isinstance(applied, Applied):
        return {}
    said: dict[str, Any] = {"mode": applied.mode, "low": applied.low, "high": applied.high}
    if applied.not_finite:
        said["not_finite"] = applied.not_finite
    return {"intensity": said}


def mask_said(mask: RLE, form: MaskFormat) -> Any:
    if form == "polygon":
        return to_polygons(mask)
    counts = to_uncompressed(mask) if form == "rle_uncompressed" else mask.counts.decode("ascii")
    return {"size": mask.size, "counts": counts}
