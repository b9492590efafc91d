"""An answer as lines of JSON (application/x-ndjson), so that none is ever whole in memory.

First come lines on how far the work is, then a head with all that stands around the detections, then one detection a
line, and last `end`. Where something goes wrong after the first line, `error` is the last one. Without either the
stream was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from service.http.problems import Problem, problem_body
from service.models.catalog import ServedModel
from service.prediction.answers import (
    Detected,
    columns_said,
    image_said,
    mask_said,
    model_said,
    timing_said,
    to_json,
)
from service.prediction.parameters import MaskFormat

Several = Literal["images", "planes"]
Counted = Literal["tiles"] | Several


def line(value: dict[str, Any]) -> bytes:
    return to_json(value) + b"\n"


def progress_line(what: Counted, done: int, of: int) -> bytes:
    return line({"progress": {what: done, "of": of}})


def picture_lines(detected: Detected, masks: MaskFormat) -> Iterator[bytes]:
    """The head of one image's answer, its detections in falling score, and the end."""
    model, detections = detected.model, detected.detections
    yield line(
        {
            "model": model_said(model),
            "image": image_said(detected),
            "detections": len(detections),
            "columns": columns_said(detected, masks),
            "truncated": detected.seen.truncated,
            "timing_ms": timing_said(detected),
        }
    )
    for row, label in enumerate(detections.labels.tolist()):
        one: dict[str, Any] = {
            "box": detections.boxes[row],
            "label": model.label_names[label],
            "label_id": label,
            "score": detections.scores[row],
        }
        if detections.masks is not None and masks != "none":
            one["mask"] = mask_said(detections.masks[row], masks)
        if detections.keypoints is not None:
            one["keypoints"] = detections.keypoints[row]
        yield line(one)
    yield end_line("detections", len(detections))


def head_of_several(model: ServedModel, what: Several, count: int) -> bytes:
    """Before the answers of several images or planes, each of which is one line."""
    return line({"model": model_said(model), what: count})


def end_line(what: Several | Literal["detections"], count: int) -> bytes:
    """The last line of an answer that is whole."""
    return line({"end": {what: count}})


def error_line(problem: Problem) -> bytes:
    """The last line of one that is not."""
    retry = {} if problem.retry_after is None else {"retry_after": problem.retry_after}
    return line({"error": {**problem_body(problem), **retry}})
