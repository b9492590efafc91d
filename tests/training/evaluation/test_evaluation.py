from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.runtime.detections import RLE, Detections
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.evaluation.evaluation import (
    KINDS,
    OTHER_KEYPOINT_SIGMA,
    ClassMetrics,
    Kind,
    KindMetrics,
    evaluate_detections,
    to_coco_results,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"
IOU_TYPE = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
HEIGHT, WIDTH = 150, 200


def _encode(mask: np.ndarray) -> RLE:
    rle = mask_reference.encode(np.asfortranarray(mask, np.uint8))
    return RLE((mask.shape[0], mask.shape[1]), rle["counts"])


def _dataset(folder: Path, *, images: int, objects: int, num_keypoints: int = 0, seed: int = 0) -> Dataset:
    """Random boxes of all sizes in three classes with gaps in their ids; a fifth are crowds, some images are empty."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(0 if image % 4 == 1 else int(rng.integers(objects // 2, objects + 1))):
            x, y = rng.uniform(0, WIDTH - 20), rng.uniform(0, HEIGHT - 20)
            width, height = rng.uniform(4, WIDTH - x), rng.uniform(4, HEIGHT - y)
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            crowd = int(rng.random() < 0.2)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[int(y) : int(y + height), int(x) : int(x + width)] = 1
            rle = _encode(mask)
            compressed = {"size": list(rle.size), "counts": rle.counts.decode()}
            record = {
                "id": len(annotations) + 1,
                "image_id": 100 - image,
                "category_id": int(rng.choice([3, 17])),
                "bbox": [x, y, width, height],
                "area": float(rng.uniform(0.5, 1.0) * width * height),
                "iscrowd": crowd,
                "segmentation": compressed if crowd or rng.random() < 0.5 else [corners],
            }
            if num_keypoints:
                points = rng.uniform([x, y], [x + width, y + height], (num_keypoints, 2)).round()
                seen = rng.integers(0, 3, num_keypoints) * (rng.random() < 0.8)
                record["keypoints"] = np.column_stack([points, seen]).ravel().tolist()
                record["num_keypoints"] = int((seen > 0).sum())
            annotations.append(record)
    document = {
        "images": [{"id": 100 - i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(images)],
        "categories": [{"id": 90, "name": "absent"}, {"id": 17, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": annotations,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "instances_val.json"
    path.write_text(json.dumps(document))
    return load_coco(path, folder)


def _guesses(data: Dataset, seed: int = 0, *, masks: bool = True, extra: int = 3) -> list[Detections]:
    """Shaken ground truth, some of it missing, some twice, with wrong classes and false alarms; scores have ties."""
    rng = np.random.default_rng(seed)
    results: list[Detections] = []
    for image, objects in zip(data.images, data.annotations, strict=True):
        corner = np.array([image.width, image.height] * 2)
        chosen = np.flatnonzero(rng.random(len(objects)) < 0.8)
        chosen = np.concatenate([chosen, chosen[: len(chosen) // 4]])
        truth = objects.boxes[chosen]
        boxes = truth + rng.normal(0, 0.06, truth.shape) * np.tile(truth[:, 2:] - truth[:, :2], 2)
        labels = objects.labels[chosen].copy()
        wrong = rng.random(len(labels)) < 0.1
        labels[wrong] = rng.integers(1, len(data.categories) + 1, wrong.sum())
        noise = rng.uniform(0, 0.5, (extra, 4)) * corner
        noise[:, 2:] += noise[:, :2]
        boxes = np.concatenate([boxes, noise]).clip(0, corner)
        labels = np.concatenate([labels, rng.integers(1, len(data.categories) + 1, extra)])
        scores = (rng.integers(1, 20, len(labels)) / 20).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        if len(results) % 5 == 4:
            order = order[:0]  # an image without detections
        keypoints = None
        if objects.keypoints is not None:
            known = objects.keypoints[chosen] + rng.normal(0, 3, (len(chosen), data.num_keypoints, 3))
            alarms = rng.uniform(0, image.width, (extra, data.num_keypoints, 3))
            keypoints = np.concatenate([known, alarms]).astype(np.float32)[order]
        drawn = [_box_mask(image.height, image.width, box) for box in boxes[order]] if masks else None
        results.append(Detections(boxes[order].astype(np.float32), scores[order], labels[order], drawn, keypoints))
    return results


def _box_mask(height: int, width: int, box: np.ndarray) -> RLE:
    mask = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = box.round().astype(int)
    mask[y1:y2, x1:x2] = 1
    return _encode(mask)


def _reference(
    data: Dataset, results: Sequence[Detections], kind: Kind, limits: Sequence[int], sigmas: Any = None
) -> KindMetrics:
    """pycocotools on the dataset's own JSON file."""
    truth = COCO(str(data.root / f"{data.name}.json"))
    found = truth.loadRes(copy.deepcopy(to_coco_results(data, results, kind)))
    run = COCOeval(truth, found, IOU_TYPE[kind])
    run.params.maxDets = list(limits)
    if sigmas is not None:
        run.params.kpt_oks_sigmas = np.asarray(sigmas)
    run.evaluate()
    run.accumulate()
    precision, recall = run.eval["precision"], run.eval["recall"]
    area = {name: index for index, name in enumerate(run.params.areaRngLbl)}

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    def figures(classes: slice) -> dict[str, float]:
        def sized(values: np.ndarray, name: str) -> float:
            return mean(values[..., classes, area[name], -1]) if name in area else -1.0

        return {
            "AP": sized(precision, "all"),
            "AP50": sized(precision[0], "all"),
            "AP75": sized(precision[5], "all"),
            "APs": sized(precision, "small"),
            "APm": sized(precision, "medium"),
            "APl": sized(precision, "large"),
            "AR": sized(recall, "all"),
            "ARs": sized(recall, "small"),
            "ARm": sized(recall, "medium"),
            "ARl": sized(recall, "large"),
        }

    return KindMetrics(
        **figures(slice(None)),
        max_detections=tuple(limits),
        AR_at=tuple(mean(recall[:, :, 0, index]) for index in range(len(limits))),
        per_class=tuple(
            ClassMetrics(name=category.name, **figures(slice(index, index + 1)))
            for index, category in enumerate(data.categories)
        ),
    )


def _assert_same(ours: KindMetrics | None, reference: KindMetrics) -> None:
    assert ours is not None
    one, other = ours.model_dump(), reference.model_dump()
    assert one["max_detections"] == other["max_detections"]
    assert one.pop("AR_at") == pytest.approx(other.pop("AR_at"), abs=1e-6)
    for mine, theirs in zip(one.pop("per_class"), other.pop("per_class"), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert {k: v for k, v in one.items() if k != "max_detections"} == pytest.approx(
        {k: v for k, v in other.items() if k != "max_detections"}, abs=1e-6
    )


@pytest.mark.parametrize("limits", [(1, 10, 100), (1, 10, 1000), (2, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_and_masks_agree_with_pycocotools(tmp_path: Path, seed: int, limits: tuple[int, ...]) -> None:
    data = _dataset(tmp_path, images=11, objects=9, seed=seed)
    results = _guesses(data, seed)
    metrics = evaluate_detections(data, results, ("box", "mask"), limits)
    assert metrics.keypoints is None
    for kind in KINDS["masks"]:
        reference = _reference(data, results, kind, limits)
        _assert_same(getattr(metrics, kind), reference)
        assert 0.05 < reference.AP < 0.95  # the case can tell right from wrong
    assert metrics.box != metrics.mask


def test_more_than_a_hundred_objects_an_image(tmp_path: Path) -> None:
    data = _dataset(tmp_path, images=1, objects=260)
    results = _guesses(data)
    few, many = (evaluate_detections(data, results, ["box"], (1, 10, limit)).box for limit in (100, 1000))
    _assert_same(few, _reference(data, results, "box", (1, 10, 100)))
    _assert_same(many, _reference(data, results, "box", (1, 10, 1000)))
    assert few is not None
    assert many is not None
    assert many.AR > few.AR


@pytest.mark.parametrize("num_keypoints", [17, 3])
def test_keypoints_agree_with_pycocotools(tmp_path: Path, num_keypoints: int) -> None:
    data = _dataset(tmp_path, images=9, objects=8, num_keypoints=num_keypoints)
    results = _guesses(data, masks=False)
    metrics = evaluate_detections(data, results, KINDS["keypoints"])
    sigmas = None if num_keypoints == 17 else [OTHER_KEYPOINT_SIGMA] * num_keypoints
    reference = _reference(data, results, "keypoints", (20,), sigmas)
    _assert_same(metrics.keypoints, reference)
    assert reference.AP > 0.05
    assert metrics.box is not None


def _truth_as_results(data: Dataset) -> list[Detections]:
    return [
        Detections(
            objects.boxes,
            np.ones(len(objects), np.float32),
            objects.labels,
            objects.rles(image.height, image.width),
        )
        for image, objects in zip(data.images, data.annotations, strict=True)
    ]


def test_the_truth_itself_is_perfect_and_nothing_is_zero(tmp_path: Path) -> None:
    data = _dataset(tmp_path, images=6, objects=5)
    perfect = evaluate_detections(data, _truth_as_results(data), ("box", "mask"))
    assert perfect.box is not None
    assert [figures.AP for figures in perfect.box.per_class] == pytest.approx([1.0, 1.0, -1.0])
    headline = perfect.headline()
    assert [headline["box/AP"], headline["box/AR"], headline["mask/AP50"]] == pytest.approx([1.0, 1.0, 1.0])
    assert set(headline) == {
        f"{kind}/{name}"
        for kind in ("box", "mask")
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")
    }

    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    empty = evaluate_detections(data, [nothing] * len(data), ("box", "mask"))
    assert empty.mask is not None
    assert (empty.mask.AP, empty.mask.AR) == (0.0, 0.0)


def test_a_dataset_without_objects_has_no_figures(tmp_path: Path) -> None:
    data = _dataset(tmp_path, images=2, objects=0)
    metrics = evaluate_detections(data, _guesses(data), ["box"])
    assert metrics.box is not None
    assert metrics.box.AP == -1.0


def test_result_records_have_the_jsons_ids_and_write_to_json(tmp_path: Path) -> None:
    data = _dataset(tmp_path, images=1, objects=1, num_keypoints=1)
    mask = _box_mask(HEIGHT, WIDTH, np.array([10, 20, 30, 60]))
    detections = Detections(
        np.array([[10, 20, 30, 60]], np.float32),
        np.array([0.5], np.float32),
        np.array([3]),
        [mask],
        np.array([[[12, 25, 7.5]]], np.float32),
    )
    base = {"image_id": 100, "category_id": 90, "score": 0.5}
    shapes: dict[Kind, Any] = {
        "box": {"bbox": [10, 20, 20, 40]},
        "mask": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": mask.counts.decode()}},
        "keypoints": {"keypoints": [12, 25, 1]},
    }
    for kind, shape in shapes.items():
        records = to_coco_results(data, [detections], kind)
        assert records == [base | shape]
        assert json.loads(json.dumps(records)) == records


BOX = np.array([[1, 1, 9, 9]], np.float32)


@pytest.mark.parametrize(
    ("results", "kind", "message"),
    [
        pytest.param([], "box", "0 results for 1 images", id="too few results"),
        pytest.param([Detections(BOX, BOX[:, 0], np.array([4]))], "box", "label 4 is not a class", id="unknown label"),
        pytest.param([Detections(BOX, BOX[:, 0], np.array([1]))], "mask", r"0\.png have no masks", id="no masks"),
        pytest.param(
            [Detections(BOX, BOX[:, 0], np.array([1]), [RLE((9, 9), b"Q2")])],
            "mask",
            r"has size \(9, 9\)",
            id="mask of another size",
        ),
        pytest.param([Detections(BOX, BOX[:, 0], np.array([1]))], "keypoints", "have no keypoints", id="no keypoints"),
    ],
)
def test_results_that_do_not_fit(tmp_path: Path, results: list[Detections], kind: Kind, message: str) -> None:
    data = _dataset(tmp_path, images=1, objects=2, num_keypoints=1)
    with pytest.raises(ValueError, match=message):
        evaluate_detections(data, results, [kind])


def test_it_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = _dataset(tmp_path, images=3, objects=3)
    evaluate_detections(data, _guesses(data), ("box", "mask"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("folder", "task", "limit"),
    [("nuclei", "masks", 1000), ("coco_mini", "masks", 100), ("coco_mini", "keypoints", 100)],
)
def test_real_data_agrees_with_pycocotools(tmp_path: Path, folder: str, task: Any, limit: int) -> None:
    split = find_splits(SHARED / folder, task).val
    assert split is not None
    document = json.loads(split.annotations.read_text())
    document["images"] = document["images"][::4]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [record for record in document["annotations"] if record["image_id"] in kept]
    path = tmp_path / "part.json"
    path.write_text(json.dumps(document))
    data = load_coco(path, tmp_path)
    results = _guesses(data, masks=task == "masks")
    metrics = evaluate_detections(data, results, KINDS[task], (1, 10, limit))
    for kind in KINDS[task]:
        limits = (20,) if kind == "keypoints" else (1, 10, limit)
        _assert_same(getattr(metrics, kind), _reference(data, results, kind, limits))
