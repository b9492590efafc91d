"""All shards as one file: Parquet with a row for each detection or image, or COCO results. One shard at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import orjson
import pyarrow as pa
from pyarrow import parquet

from model.runtime.detections import RLE, Detections
from service.client.command.coco_ids import ImageId
from service.client.command.formats import dataset_tail
from service.predict_many.plan import Plan
from service.predict_many.shards import (
    COMPRESSION,
    DATASET,
    OF_DETECTIONS,
    OF_IMAGES,
    OF_PLAN,
    RESULTS,
    part_name,
)
from service.predict_many.sources import Images
from service.predict_many.stores import Folder, StoreError
from service.prediction.answers import coco_results, to_json

Rows = Literal["detections", "images"]

ONE: Final = {
    "boxes": "box",
    "labels": "label",
    "label_ids": "label_id",
    "scores": "score",
    "masks": "mask",
    "keypoints": "keypoints",
}
"""What the columns of lists are called where a row is one detection."""


@dataclass(slots=True)
class Tally:
    """What all shards hold."""

    images: int = 0
    failed: int = 0
    detections: int = 0
    truncated: int = 0


def merge_parquet(folder: Folder, plan: Plan, rows: Rows) -> Tally:
    """Write ROWS.parquet. Raises OSError and StoreError."""
    tally = Tally()
    with folder.writing(f"{rows}.parquet") as stream:
        writer: parquet.ParquetWriter | None = None
        try:
            for table in _parts(folder, plan, tally):
                merged = (table if rows == "images" else by_detection(table)).replace_schema_metadata(None)
                if writer is None:
                    writer = parquet.ParquetWriter(stream, merged.schema, compression=COMPRESSION)
                writer.write_table(merged)
        finally:
            if writer is not None:
                writer.close()  # while there is a stream, or pyarrow complains later
    return tally


def merge_coco(folder: Folder, plan: Plan, images: Images, label_names: Sequence[str]) -> Tally:
    """Write RESULTS, COCO results with the ids of `images`, and DATASET, the images and categories that they are about.

    Raises OSError and StoreError.
    """
    tally = Tally()
    categories = images.categories
    with folder.writing(RESULTS) as results, folder.writing(DATASET) as dataset:
        results.write(b"[\n")
        dataset.write(b'{"images": [\n')
        index, lead = 0, b""
        for table in _parts(folder, plan, tally):
            for row in table.to_pylist():
                image_id = images.image_id(index)
                dataset.write((b",\n" if index else b"") + orjson.dumps(_image(row, image_id)))
                for entry in coco_results(detections_of(row), "rle", image_id):
                    if categories is not None:
                        entry["category_id"] = categories[label_names[entry["category_id"]]]
                    results.write(lead + to_json(entry))
                    lead = b",\n"
                index += 1
        results.write(b"\n]\n")
        named = {one: name for name, one in (categories or {}).items()} or dict(enumerate(label_names[1:], 1))
        dataset.write(dataset_tail(named))
    return tally


def by_detection(table: pa.Table) -> pa.Table:
    """A row for each detection, and one for each image that has none, where the detection's columns are null."""
    counts = table.column("scores").combine_chunks().value_lengths().fill_null(0).to_numpy()
    rows = np.maximum(counts, 1)
    image = np.repeat(np.arange(len(table)), rows)
    number = np.arange(len(image)) - np.repeat(np.cumsum(rows) - rows, rows)  # of the detection in its image
    none = np.repeat(counts == 0, rows)
    detection = pa.array(np.repeat(np.cumsum(counts) - counts, rows) + number, pa.int64(), mask=none)
    columns = {name: table.column(name).take(pa.array(image)) for name in OF_IMAGES if name != "seen"}
    columns["detection"] = pa.array(number, pa.int32(), mask=none)
    for name, one in ONE.items():
        lists = table.column(name).combine_chunks()
        has_none = lists.null_count == len(lists)  # as of a model without masks
        columns[one] = pa.nulls(len(image), OF_DETECTIONS[name]) if has_none else lists.flatten().take(detection)
    return pa.table(columns)


def _parts(folder: Folder, plan: Plan, tally: Tally) -> Iterator[pa.Table]:
    """Each shard's rows, counted. Raises StoreError for one that is not there, damaged, or another run's."""
    digest = plan.digest.encode()
    for name in map(part_name, range(plan.shards)):
        content = folder.read(name)
        if content is None:
            raise StoreError(f"{folder}/{name} is gone: run the command again")
        try:
            table = parquet.read_table(pa.BufferReader(content))
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise StoreError(f"{folder}/{name} is damaged ({said}): delete it and run the command again") from None
        if (table.schema.metadata or {}).get(OF_PLAN) != digest:
            why = "is of another run, which wrote into this folder too"
            raise StoreError(f"{folder}/{name} {why}: delete it and run the command again")
        tally.images += len(table)
        tally.failed += len(table) - table.column("error").null_count
        tally.truncated += table.column("truncated").to_pylist().count(True)
        tally.detections += sum(filter(None, table.column("scores").combine_chunks().value_lengths().to_pylist()))
        yield table


def _image(row: Mapping[str, Any], image_id: ImageId) -> dict[str, Any]:
    """An entry of a COCO dataset's images. A bad one has no size, but its error."""
    entry = {"id": image_id, "file_name": row["image"]}
    others = {name: row[name] for name in ("width", "height", "error", "detail")}
    return entry | {name: value for name, value in others.items() if value is not None}


def detections_of(row: Mapping[str, Any]) -> Detections:
    """Those of one image; none of a bad one."""
    masks, keypoints = row["masks"], row["keypoints"]
    return Detections(
        np.array(row["boxes"] or (), np.float32).reshape(-1, 4),
        np.array(row["scores"] or (), np.float32),
        np.array(row["label_ids"] or (), np.int64),
        None if masks is None else [RLE(tuple(mask["size"]), mask["counts"].encode("ascii")) for mask in masks],
        np.array(keypoints, np.float32) if keypoints else None,
    )
