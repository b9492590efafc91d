"""A shard's file: a row for each image, in the list's order. Nothing in it depends on when or how fast it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from model.runtime.detections import Detections
from service.client.command.coco_ids import ImageId
from service.prediction.answers import Detected, image_said, mask_said, to_json

FOLDER: Final = "_parts"
"""Readers of Parquet pass over a folder whose name begins so."""
PLAN: Final = "_plan.json"
RESULTS, DATASET = "results.json", "images.json"
FILES: Final = (PLAN, "detections.parquet", "images.parquet", RESULTS, DATASET)
"""What a run writes beside FOLDER."""
COMPRESSION: Final = "zstd"
OF_PLAN: Final = b"maskserve_plan"
"""Under which a shard's file keeps the digest of its plan."""

OF_IMAGES: Final = {
    "image": pa.string(),
    "image_id": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "truncated": pa.bool_(),
    "seen": pa.string(),
    "error": pa.string(),
    "detail": pa.string(),
}
"""`image_id` is a text where one of them is."""
OF_DETECTIONS: Final = {
    "boxes": pa.list_(pa.float32(), 4),
    "labels": pa.string(),
    "label_ids": pa.int32(),
    "scores": pa.float32(),
    "masks": pa.struct({"size": pa.list_(pa.int32(), 2), "counts": pa.string()}),
    "keypoints": pa.list_(pa.list_(pa.float32(), 3)),
}
"""The columns of the answer of POST /predict: lists of an image, with an element for each detection."""

_NAME: Final = re.compile(r"part-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What became of one image: what was found, or the kind of error and a sentence. `seen` is `image` of the answer,
    as JSON; `size` is (height, width)."""

    name: str
    image_id: ImageId
    size: tuple[int, int] | None = None
    truncated: bool | None = None
    seen: str | None = None
    error: str | None = None
    detail: str | None = None
    detections: Detections | None = None

    @classmethod
    def of(cls, name: str, image_id: ImageId, detected: Detected) -> Row:
        said = to_json(image_said(detected)).decode()
        truncated = detected.seen.truncated
        return cls(name, image_id, detected.size, truncated, said, detections=detected.detections)


def schema(*, text_ids: bool) -> pa.Schema:
    lists = {name: pa.list_(kind) for name, kind in OF_DETECTIONS.items()}
    return pa.schema(OF_IMAGES | ({"image_id": pa.string()} if text_ids else {}) | lists)


def part_name(shard: int) -> str:
    return f"{FOLDER}/part-{shard:06}.parquet"


def shards_in(names: Iterable[str]) -> set[int]:
    """Which shards have their file among these, of FOLDER."""
    return {int(found[1]) for name in names if (found := _NAME.fullmatch(name))}


def to_parquet(rows: Sequence[Row], label_names: Sequence[str], plan: str, *, text_ids: bool) -> bytes:
    """A shard's file. label_names: by label id. plan: its digest, by which a shard of another run is told."""
    said = [_said(row, label_names, text_ids=text_ids) for row in rows]
    buffer = BytesIO()
    table = pa.Table.from_pylist(said, schema(text_ids=text_ids).with_metadata({OF_PLAN: plan}))
    parquet.write_table(table, buffer, compression=COMPRESSION)
    return buffer.getvalue()


def _said(row: Row, label_names: Sequence[str], *, text_ids: bool) -> dict[str, Any]:
    """By column; null where it is left out."""
    height, width = (None, None) if row.size is None else row.size
    said = {
        "image": row.name,
        "image_id": str(row.image_id) if text_ids else row.image_id,
        "width": width,
        "height": height,
        "truncated": row.truncated,
        "seen": row.seen,
        "error": row.error,
        "detail": row.detail,
    }
    if (found := row.detections) is None:
        return said
    labels = found.labels.tolist()
    return said | {
        "boxes": found.boxes.tolist(),
        "labels": [label_names[label] for label in labels],
        "label_ids": labels,
        "scores": found.scores.tolist(),
        "masks": None if found.masks is None else [mask_said(mask, "rle") for mask in found.masks],
        "keypoints": None if found.keypoints is None else found.keypoints.tolist(),
    }
