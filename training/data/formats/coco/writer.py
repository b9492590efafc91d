"""COCO, the way back: `annotations/instances_SPLIT.json` with `images/SPLIT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.runtime.detections import RLE
from training.data.annotations.dataset import Category, Dataset
from training.data.annotations.fields import Segmentation
from training.data.annotations.records import Annotations
from training.data.formats.writing import Placed, Placement, place_images


def save_coco(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Writes a split with all ids, boxes, areas and masks as they are.

    Where there are keypoints, `person_keypoints_SPLIT.json` is another copy.
    """
    placed = place_images(data, folder / "images" / split, placement, stems=False)
    document = {
        # EXIF turns pictures only for the eye; without this, a reader could not tell what was annotated
        "info": {"orientation": "stored"},
        "images": [
            {"id": record.original_id, "file_name": file, "width": record.width, "height": record.height}
            for record, file in zip(data.images, placed.files, strict=True)
        ],
        "annotations": [
            _record(objects, row, record.original_id, data.categories)
            for record, objects in zip(data.images, data.annotations, strict=True)
            for row in range(len(objects))
        ],
        "categories": [_category(category) for category in data.categories],
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for prefix in ("instances", "person_keypoints") if data.num_keypoints else ("instances",):
        (folder / "annotations" / f"{prefix}_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return placed


def _record(objects: Annotations, row: int, image_id: int | str, categories: tuple[Category, ...]) -> dict[str, Any]:
    record = {
        "id": int(objects.ids[row]),
        "image_id": image_id,
        "category_id": categories[objects.labels[row] - 1].id,
        "bbox": objects.xywh[row].tolist(),
        "area": float(objects.area[row]),
        "iscrowd": int(objects.crowd[row]),
        "segmentation": _segmentation(objects.segmentations[row]),
    }
    if objects.keypoints is not None:
        record["keypoints"] = objects.keypoints[row].ravel().tolist()
        record["num_keypoints"] = int((objects.keypoints[row, :, 2] > 0).sum())
    return record


def _segmentation(segmentation: Segmentation) -> Any:
    if isinstance(segmentation, RLE):
        return {"size": list(segmentation.size), "counts": segmentation.counts.decode("ascii")}
    return [ring.ravel().tolist() for ring in segmentation or ()]


def _category(category: Category) -> dict[str, Any]:
    record: dict[str, Any] = {"id": category.id, "name": category.name}
    return record | {"keypoints": list(category.keypoints)} if category.keypoints else record
