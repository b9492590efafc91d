"""Folders as the annotation tools leave them: read with the right counts, without a word of configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.formats import tool_folders as tools
from tests.training.data.formats.samples import write_ids, write_json
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check
from training.data.formats.locate import Origin, locate

SHARED = Path(__file__).parents[5] / "shared" / "data"


def counts(data: Dataset) -> dict[str, int]:
    labels = np.concatenate([objects.labels for objects in data.annotations])
    return {name: int((labels == label).sum()) for label, name in enumerate(data.class_names, 1)}


def splits_of(folder: Path) -> dict[str, Dataset]:
    splits = locate(Origin(folder)).read()
    assert [problem for data in splits.values() for problem in check(data)] == []
    return splits


def roboflow(folder: Path) -> None:
    for shade, split in enumerate(("train", "valid", "test")):
        tools.coco(folder / split / "_annotations.coco.json", tools.pictures(folder / split, shade=shade))


def cvat(folder: Path) -> None:
    tools.coco(folder / "annotations/instances_default.json", tools.pictures(folder / "images/default"))


def cvat_subsets(folder: Path) -> None:
    for split in ("Train", "Validation"):
        tools.coco(folder / f"annotations/instances_{split}.json", tools.pictures(folder / "images" / split))


def label_studio(folder: Path) -> None:
    tools.coco(folder / "result.json", [f"images/{name}" for name in tools.pictures(folder / "images")])


def fiftyone(folder: Path) -> None:
    tools.coco(folder / "labels.json", tools.pictures(folder / "data"))


def fiftyone_splits(folder: Path) -> None:
    for split in ("train", "validation"):
        tools.coco(folder / split / "labels.json", tools.pictures(folder / split / "data"))


def labelme2coco(folder: Path) -> None:
    tools.coco(folder / "annotations.json", [f"JPEGImages/{name}" for name in tools.pictures(folder / "JPEGImages")])


def coco_2014(folder: Path) -> None:
    for split in ("train2014", "val2014"):
        tools.coco(folder / f"annotations/instances_{split}.json", tools.pictures(folder / split))
    write_json(folder / "annotations/captions_train2014.json", {"images": [{}], "annotations": [], "categories": []})


def lone_json(folder: Path) -> None:
    tools.coco(folder / "my labels.json", tools.pictures(folder))


def named_files(folder: Path) -> None:
    for split in ("train", "valid"):
        tools.coco(folder / f"{split}.json", tools.pictures(folder / "images" / split))


def unpacked_archive(folder: Path) -> None:
    roboflow(folder / "project.v1i.coco")


def labelme_separate(folder: Path) -> None:
    tools.labelme(folder / "annotations", *tools.pictures(folder / "images"), prefix="..\\images\\")


def labelme_nested(folder: Path) -> None:
    for place in ("monday", "tuesday/noon"):
        tools.labelme(folder / place, *tools.pictures(folder / place))


def labelme_splits(folder: Path) -> None:
    for split in ("Train", "Valid"):
        tools.labelme(folder / split, *tools.pictures(folder / split))


def labelme_kind(kind: str) -> Callable[[Path], None]:
    return lambda folder: tools.labelme(folder, *tools.pictures(folder), kind=kind)


def via_csv(first: str) -> Callable[[Path], None]:
    return lambda folder: tools.via_csv(folder / "via_region_data.csv", tools.pictures(folder), first)


def via_3(folder: Path) -> None:
    tools.via_3(folder / "project.json", tools.pictures(folder))


def via_twice(folder: Path) -> None:
    images = tools.via_images(tools.pictures(folder))
    write_json(folder / "via_region_data.json", images)
    write_json(folder / "project.json", {"_via_settings": {}, "_via_img_metadata": images})


def via_coco(folder: Path) -> None:
    tools.coco(folder / "via_export_coco.json", tools.pictures(folder))
    file = folder / "via_export_coco.json"
    document = json.loads(file.read_text())
    for record in document["annotations"]:
        record |= {"image_id": str(record["image_id"]), "segmentation": record["segmentation"][0]}
    write_json(file, document)


def yolo_roboflow(folder: Path) -> None:
    for split in ("train", "valid"):
        tools.yolo(folder / split / "labels", *tools.pictures(folder / split / "images"))
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [red, green]\n")


def yolo_label_studio(folder: Path) -> None:
    tools.yolo(folder / "labels", *tools.pictures(folder / "images"))
    (folder / "classes.txt").write_text("red\ngreen\n")
    write_json(folder / "notes.json", {"categories": []})


def yolo_lists(folder: Path) -> None:
    names = tools.pictures(folder / "obj_train_data")
    tools.yolo(folder / "obj_train_data", *names)
    (folder / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in names))
    (folder / "obj.names").write_text("red\ngreen\n")


def yolo_beside(folder: Path) -> None:
    inside = folder / "images" / "set"  # a parent that is called images has nothing to do with it
    tools.yolo(inside / "train", *tools.pictures(inside / "train"))
    (inside / "data.yaml").write_text("train: train\nnames: {0: red, 1: green}\n")


def dsb(folder: Path) -> None:
    for shade, name in enumerate(("a1", "b2")):
        tools.pictures(folder / "stage1_train" / name / "images", f"{name}.png", shade=shade)
        tools.object_masks(folder / "stage1_train" / name / "masks")


def object_folders(folder: Path) -> None:
    for name in tools.pictures(folder / "images"):
        tools.object_masks(folder / "masks" / Path(name).stem)


def cellpose(ending: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for split in ("train", "test"):
            for name in tools.pictures(folder / split):
                write_ids(folder / split / f"{Path(name).stem}{ending}", tools.ids() * 300)
            (folder / split / "0_seg.npy").write_bytes(b"a pickle")

    return write


def cellpose_pairs(image: str, mask: str) -> Callable[[Path], None]:
    """As Cellpose's own data are called."""

    def write(folder: Path) -> None:
        for split in ("train", "test"):
            for name in tools.pictures(folder / split, f"000{image}.png", f"001{image}.png"):
                write_ids(folder / split / f"{name[:3]}{mask}", tools.ids() * 300)

    return write


def masks_beside(folder: Path) -> None:
    for name in tools.pictures(folder / "images"):
        write_ids(folder / "masks" / f"{Path(name).stem}_masks.tif", tools.ids() * 300)


def cvat_masks(folder: Path) -> None:
    tools.cvat_masks(folder, tools.pictures(folder / "JPEGImages", "0.jpg", "1.jpg"))


ONE, TWO = ("train",), ("train", "val")


@pytest.mark.parametrize(
    ("write", "form", "splits"),
    [
        pytest.param(roboflow, "coco", (*TWO, "test"), id="Roboflow COCO"),
        pytest.param(cvat, "coco", ONE, id="CVAT COCO, one subset called default"),
        pytest.param(cvat_subsets, "coco", TWO, id="CVAT COCO, subsets"),
        pytest.param(label_studio, "coco", ONE, id="Label Studio COCO"),
        pytest.param(fiftyone, "coco", ONE, id="FiftyOne"),
        pytest.param(fiftyone_splits, "coco", TWO, id="FiftyOne, a folder a split"),
        pytest.param(labelme2coco, "coco", ONE, id="labelme2coco"),
        pytest.param(coco_2014, "coco", TWO, id="COCO 2014, with its captions"),
        pytest.param(lone_json, "coco", ONE, id="a JSON beside the images"),
        pytest.param(named_files, "coco", TWO, id="train.json and valid.json"),
        pytest.param(unpacked_archive, "coco", (*TWO, "test"), id="a folder in the folder"),
        pytest.param(via_coco, "coco", ONE, id="VIA's COCO: ids as texts, one flat outline"),
        pytest.param(labelme_separate, "labelme", ONE, id="LabelMe, JSON apart from the images"),
        pytest.param(labelme_splits, "labelme", TWO, id="LabelMe, Train and Valid"),
        pytest.param(labelme_kind("rectangle"), "labelme", ONE, id="X-AnyLabeling's rectangle of four points"),
        pytest.param(labelme_kind("rotation"), "labelme", ONE, id="X-AnyLabeling's rotation"),
        pytest.param(labelme_kind("oriented_rectangle"), "labelme", ONE, id="LabelMe's oriented rectangle"),
        pytest.param(via_csv("filename"), "via", ONE, id="VIA 2's CSV"),
        pytest.param(via_csv("#filename"), "via", ONE, id="VIA 1's CSV"),
        pytest.param(via_csv("# filename "), "via", ONE, id="VIA 1's CSV, edited"),
        pytest.param(via_3, "via", ONE, id="VIA 3"),
        pytest.param(via_twice, "via", ONE, id="VIA's export and project of the same"),
        pytest.param(yolo_roboflow, "yolo", TWO, id="Roboflow YOLO"),
        pytest.param(yolo_label_studio, "yolo", ONE, id="Label Studio YOLO, without YAML"),
        pytest.param(yolo_lists, "yolo", ONE, id="CVAT YOLO, a list and names"),
        pytest.param(yolo_beside, "yolo", ONE, id="YOLO, labels beside the images"),
        pytest.param(cvat_masks, "voc", ONE, id="CVAT's segmentation masks"),
    ],
)
def test_a_tools_folder_is_read_as_it_lies(
    tmp_path: Path, write: Callable[[Path], None], form: str, splits: tuple[str, ...]
) -> None:
    write(tmp_path)
    assert locate(Origin(tmp_path)).format == form
    found = splits_of(tmp_path)
    assert tuple(found) == splits
    for data in found.values():
        assert (len(data), counts(data)) == (2, {"red": 4, "green": 2})
        objects = data.annotations[0]
        areas = sorted(int(mask.sum()) for mask in objects.masks(tools.HEIGHT, tools.WIDTH))
        assert areas == [80, 108, 120]


@pytest.mark.parametrize(
    ("write", "form", "splits"),
    [
        pytest.param(dsb, "object_png", ONE, id="2018 Data Science Bowl"),
        pytest.param(object_folders, "object_png", ONE, id="a folder of masks for each image"),
        pytest.param(cellpose("_masks.tif"), "instance_png", ("train", "test"), id="Cellpose _masks, 16 bits"),
        pytest.param(cellpose("_cp_masks.png"), "instance_png", ("train", "test"), id="Cellpose _cp_masks"),
        pytest.param(cellpose_pairs("_img", "_masks.png"), "instance_png", ("train", "test"), id="Cellpose's own data"),
        pytest.param(cellpose_pairs("_img", "_cp_masks.tif"), "instance_png", ("train", "test"), id="_img, _cp_masks"),
        pytest.param(cellpose_pairs("_image", "_mask.png"), "instance_png", ("train", "test"), id="_image and _mask"),
        pytest.param(cellpose_pairs("_img", "_img_masks.png"), "instance_png", ("train", "test"), id="_img_masks"),
        pytest.param(masks_beside, "instance_png", ONE, id="images/ and masks/ with Cellpose's names"),
    ],
)
def test_masks_of_one_class_are_read_as_they_lie(
    tmp_path: Path, write: Callable[[Path], None], form: str, splits: tuple[str, ...]
) -> None:
    write(tmp_path)
    assert locate(Origin(tmp_path)).format == form
    found = splits_of(tmp_path)
    assert tuple(found) == splits
    for data in found.values():
        assert (len(data), counts(data)) == (2, {"object": 6})


def test_a_pickled_mask_is_not_opened(tmp_path: Path) -> None:
    for name in tools.pictures(tmp_path):
        (tmp_path / f"{Path(name).stem}_seg.npy").write_bytes(b"a pickle")
    with pytest.raises(DatasetError, match=r"0_seg\.npy alone, a Python pickle.*save the masks as PNG or TIFF"):
        locate(Origin(tmp_path)).read()


def test_folders_in_folders_are_one_split_of_labelme(tmp_path: Path) -> None:
    labelme_nested(tmp_path)
    (data,) = splits_of(tmp_path).values()
    assert (len(data), counts(data)) == (4, {"red": 8, "green": 4})
    assert {image.path.parent.name for image in data.images} == {"monday", "noon"}


def test_images_inside_labelmes_json_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tools.labelme(tmp_path / "set", "0.png", "1.png", embed=True)
    (data,) = splits_of(tmp_path / "set").values()
    assert (len(data), counts(data)) == (2, {"red": 4, "green": 2})
    assert "2 images are in the JSON alone" in data.notes[0]
    assert all(image.path.is_relative_to(tmp_path / "cache") for image in data.images)


@pytest.mark.parametrize("kind", ["point", "line", "linestrip"])
def test_shapes_that_are_not_read_are_named_with_their_number(tmp_path: Path, kind: str) -> None:
    labelme_kind(kind)(tmp_path)
    with pytest.raises(DatasetError, match=rf"nothing is annotated .* cover no area \(6 {kind}\); draw polygons"):
        locate(Origin(tmp_path)).read()


def test_two_via_files_that_disagree_are_refused(tmp_path: Path) -> None:
    names = tools.pictures(tmp_path)
    write_json(tmp_path / "first.json", tools.via_images(names))
    write_json(tmp_path / "second.json", tools.via_images(names, attribute="label"))
    with pytest.raises(DatasetError, match=r"annotate 0\.png differently: choose one of them with --annotations"):
        locate(Origin(tmp_path)).read()
    chosen = locate(Origin(None, (tmp_path / "second.json",))).read()
    assert counts(chosen["train"] if "train" in chosen else next(iter(chosen.values()))) == {"red": 4, "green": 2}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("folder", "form", "expected"),
    [
        ("nuclei", "coco", {"train": (532, 23095), "val": (72, 2860)}),
        ("coco_mini", "coco", {"train": (80, 739), "val": (79, 624)}),
        ("cityscapes", "cityscapes", {"train": (2, 27)}),
        ("penn_fudan", "instance_png", {"train": (1, 3)}),
    ],
)
def test_real_sets_load_as_they_lie(folder: str, form: str, expected: dict[str, tuple[int, int]]) -> None:
    found = locate(Origin(SHARED / folder))
    assert found.format == form
    assert {split: (len(data), sum(map(len, data.annotations))) for split, data in found.read().items()} == expected
