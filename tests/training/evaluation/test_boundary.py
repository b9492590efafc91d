"""Boundary AP against the paper's definition by brute force, counted up by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.runtime.detections import RLE, Detections
from model.runtime.kernels.rle import decode, encode_bitmap
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.reader import load_coco
from training.evaluation.evaluation import evaluate_detections, to_coco_results

HEIGHT, WIDTH = 90, 120
BAND = 3  # 2 % of a diagonal of 150 pixels

Mask = NDArray[np.bool_]


def _blob(rng: np.random.Generator, y: float, x: float, radius: float) -> Mask:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    angle = np.arctan2(rows - y, columns - x)
    reach = radius * (1 + 0.25 * np.sin(rng.integers(2, 6) * angle + rng.uniform(0, 6)))
    blob: Mask = np.hypot(rows - y, columns - x) <= reach
    return blob


def _edge(mask: Mask) -> Mask:
    """Pixels of a mask from which one outside it, or the image's outside, is at most BAND steps in any direction."""
    padded = np.pad(mask, BAND)
    inside = np.ones_like(mask)
    for y in range(2 * BAND + 1):
        for x in range(2 * BAND + 1):
            inside &= padded[y : y + HEIGHT, x : x + WIDTH]
    return mask & ~inside


def _iou(one: Mask, other: Mask, crowd: bool) -> float:
    whole = one.sum() if crowd else (one | other).sum()
    return float((one & other).sum() / whole) if whole else 0.0


class _BruteForce(COCOeval):  # type: ignore[misc]  # it ships no types
    def computeIoU(self, imgId: int, catId: int) -> Any:
        found = sorted(self._dts[imgId, catId], key=lambda record: -record["score"])[: self.params.maxDets[-1]]
        truth = self._gts[imgId, catId]
        if not found or not truth:
            return []
        masks = [[self._mask(record) for record in records] for records in (found, truth)]
        rows = []
        for one in masks[0]:
            row = []
            for other, record in zip(masks[1], truth, strict=True):
                crowd = bool(record["iscrowd"])
                whole = _iou(one, other, crowd)
                row.append(whole if crowd else min(whole, _iou(_edge(one), _edge(other), crowd)))
            rows.append(row)
        return np.array(rows)

    @staticmethod
    def _mask(record: dict[str, Any]) -> Mask:
        rle = record["segmentation"]
        counts = rle["counts"]  # text, or bytes once pycocotools has had it
        return decode(RLE(tuple(rle["size"]), counts.encode() if isinstance(counts, str) else counts))


def _case(folder: Path, seed: int) -> tuple[Dataset, list[Detections]]:
    """Blobs of all sizes, some cut by the image's border, and detections that are shifted and reshaped."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[Detections] = []
    for image in range(1, 5):
        masks = []
        for _ in range(6):
            y, x, radius = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(4, 40)
            truth = _blob(rng, y, x, radius)
            rle = encode_bitmap(truth)
            rows, columns = (np.flatnonzero(truth.any(axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "area": float(truth.sum()),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": {"size": list(rle.size), "counts": rle.counts.decode()},
                }
            )
            masks.append(truth ^ (_edge(truth) & (rng.random(truth.shape) < rng.uniform(0, 0.6))))
            masks.append(_blob(rng, y + rng.normal(0, 2), x + rng.normal(0, 2), radius * rng.uniform(0.9, 1.1)))
        scores = np.sort(rng.random(len(masks)).astype(np.float32))[::-1]
        boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (len(masks), 1))
        results.append(
            Detections(boxes, scores, np.ones(len(masks), np.int64), [encode_bitmap(mask) for mask in masks])
        )
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, 5)],
        "categories": [{"id": 1, "name": "blob"}],
        "annotations": annotations,
    }
    path = folder / "instances_val.json"
    path.write_text(json.dumps(document))
    return load_coco(path, folder), results


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap_is_that_of_the_papers_definition(tmp_path: Path, seed: int) -> None:
    data, results = _case(tmp_path, seed)
    metrics = evaluate_detections(data, results, ("mask", "boundary"))
    assert metrics.mask is not None
    assert metrics.boundary is not None
    truth = COCO(str(tmp_path / "instances_val.json"))
    run = _BruteForce(truth, truth.loadRes(to_coco_results(data, results, "boundary")), "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
    ours = metrics.boundary
    assert [ours.AP, ours.AP50, ours.AP75, ours.APs, ours.APm, ours.APl] == pytest.approx(run.stats[:6], abs=1e-6)
    assert [*ours.AR_at, ours.ARs, ours.ARm, ours.ARl] == pytest.approx(run.stats[6:], abs=1e-6)
    assert ours.AP < metrics.mask.AP - 0.02  # the edges are rough, which the masks' own IoU hardly shows


def test_boundary_figures_are_in_the_headline(tmp_path: Path) -> None:
    data, results = _case(tmp_path, 0)
    metrics = evaluate_detections(data, results, ("boundary",))
    assert metrics.boundary is not None
    assert metrics.headline()["boundary/AP"] == metrics.boundary.AP
    assert list(metrics.measured()) == ["boundary"]
