"""Renders one image's detections as the JSON of the contract, columns side by side in falling score."""

from __future__ import annotations

from typing import Any

import orjson

from model.runtime.detections import RLE, Detections
from model.runtime.masks import to_polygons, to_uncompressed
from service.models import ServedModel
from service.parameters import MaskFormat
from service.timing import Timing


def render(model: ServedModel, size: tuple[int, int], detections: Detections, masks: MaskFormat) -> dict[str, Any]:
    """The answer but for its `timing_ms`, ready for `to_json`. `size` is (height, width) of the image as seen."""
    answer: dict[str, Any] = {
        "model": {"name": model.manifest.name, "version": model.manifest.version},
        "image": {"width": size[1], "height": size[0]},
        "boxes": detections.boxes,
        "labels": [model.label_names[label] for label in detections.labels],
        "label_ids": detections.labels,
        "scores": detections.scores,
    }
    if detections.masks is not None and masks != "none":
        answer["masks"] = [_mask(mask, masks) for mask in detections.masks]
    if detections.keypoints is not None:
        answer["keypoints"] = detections.keypoints
    return answer


def to_json(answer: dict[str, Any], timing: Timing) -> bytes:
    """UTF-8 JSON. float32 values are written with the fewest digits that read back the same."""
    answer["timing_ms"] = timing.milliseconds()
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _mask(mask: RLE, form: MaskFormat) -> Any:
    if form == "polygon":
        return to_polygons(mask)
    counts = to_uncompressed(mask) if form == "rle_uncompressed" else mask.counts.decode("ascii")
    return {"size": mask.size, "counts": counts}
