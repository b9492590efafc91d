"""Samples of a dataset on disk: their randomness is their position's, also where two images meet in one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as mask_api
from PIL import Image
from torch import Tensor

from model.architecture import ArchitectureConfig, Task
from tests.training.data.augmentation.scenes import random_image, random_scene
from training.config import AugmentConfig
from training.data.annotations.dataset import Dataset
from training.data.augmentation.transforms import Augmentation
from training.data.formats.coco.reader import load_coco
from training.data.loading.loader import make_loader
from training.data.loading.samples import Draw, TrainingSet, UnreadableImage

SIZES = ((20, 30), (25, 22), (40, 18), (21, 33))
CROWD = 2
"""The image that has nothing but a crowd region."""


def write_dataset(folder: Path, images: Sequence[int] = range(4)) -> Dataset:
    """Image n has the pixels of `random_image` with number n + 1, and 3 objects; CROWD has one region of everything."""
    records: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image in images:
        height, width = SIZES[image]
        Image.fromarray(random_image(height, width, image + 1)).save(folder / f"{image}.png")
        records.append({"id": image, "file_name": f"{image}.png", "height": height, "width": width})
        _, _, masks = random_scene(image, height, width, count=3)
        for mask in np.ones((1, height, width), np.uint8) if image == CROWD else masks:
            rle = mask_api.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": int(image == CROWD),
                    "bbox": mask_api.toBbox(rle).tolist(),
                    "area": int(mask.sum()),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    "keypoints": [1.5, 1.5, 2, 9.5, 9.5, 1, 0, 0, 0],
                }
            )
    categories = [{"id": 1, "name": "thing", "keypoints": ["left_a", "right_a", "b"]}]
    document = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(document))
    return load_coco(folder / "a.json", folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data"))


def training_set(data: Dataset, task: Task = "masks_keypoints", **augment: object) -> TrainingSet:
    config = AugmentConfig.model_validate({"crop": 48, "vertical_flip": 0.5, "transpose": 0.5} | augment)
    return TrainingSet(data, Augmentation(config, ArchitectureConfig(task=task, num_classes=2), ((0, 1),)), seed=4)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("boxes", {"boxes", "labels"}),
        ("masks", {"boxes", "labels", "masks"}),
        ("keypoints", {"boxes", "labels", "keypoints"}),
        ("masks_keypoints", {"boxes", "labels", "masks", "keypoints"}),
    ],
)
def test_a_target_has_what_its_task_learns_from(data: Dataset, task: Task, columns: set[str]) -> None:
    for image in range(len(data)):
        _, target, _, _ = training_set(data, task)[Draw(0, image)]
        assert set(target) == columns


def test_a_position_decides_on_everything_but_the_first_image(data: Dataset) -> None:
    dataset = training_set(data, copy_paste=0.5, jitter=(0.3, 2), brightness=0.3, noise=0.1, crop_around=0.5)
    first = [dataset[Draw(position, position % 4)] for position in range(30)]
    torch.manual_seed(77)  # the surrounding randomness plays no part
    for position in reversed(range(30)):
        image, target, name, _ = dataset[Draw(position, position % 4)]
        assert torch.equal(image, first[position][0])
        assert same(target, first[position][1])
        assert name == first[position][2]
    names = {sample.name for sample in first}
    assert {" with " in name for name in names} == {True, False}
    assert not torch.equal(dataset[Draw(0, 1)][0], dataset[Draw(1, 1)][0])


def test_worker_processes_paste_the_same_objects(data: Dataset) -> None:
    dataset = training_set(data, copy_paste=1.0)
    alone, shared = (
        list(make_loader(dataset, batch_size=2, workers=workers, skip=0, count=4, same_size=True, pin=False))
        for workers in (0, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        assert one.names == other.names
        assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        assert all(same(a, b) for a, b in zip(one.targets, other.targets, strict=True))


def test_crowd_regions_are_not_pasted(data: Dataset) -> None:
    dataset = training_set(data, copy_paste=1.0)
    names, seen = set(), set()
    for position in range(80):
        image, target, name, _ = dataset[Draw(position, 0)]
        names.add(name)
        numbers = image[2].numpy()  # the blue channel says which image a pixel is of
        seen |= set(np.unique(numbers).tolist())
        assert target["masks"].numpy()[:, numbers != 1].any(axis=0).all()
    assert names == {"0.png", "0.png with 0.png", "0.png with 1.png", "0.png with 3.png"}
    assert seen == {1, 2, 4}


def test_without_any_object_there_is_nothing_to_paste(tmp_path: Path) -> None:
    dataset = training_set(write_dataset(tmp_path, (CROWD,)), copy_paste=1.0)
    image, target, name, _ = dataset[Draw(0, 0)]
    assert name == f"{CROWD}.png"
    assert {key: (value.dtype, tuple(value.shape)) for key, value in target.items()} == {
        "boxes": (torch.float32, (0, 4)),
        "labels": (torch.int64, (0,)),
        "masks": (torch.uint8, (0, *image.shape[1:])),
        "keypoints": (torch.float32, (0, 3, 3)),
    }


def test_an_unreadable_second_image_is_named(tmp_path: Path) -> None:
    dataset = training_set(write_dataset(tmp_path, (0, 1)), copy_paste=1.0)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UnreadableImage, match=r"1\.png"):
        _ = [dataset[Draw(position, 0)] for position in range(20)]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param((1,), ("0.png", "2.png", "2.png", "3.png"), id="the next one"),
        pytest.param((1, 2), ("0.png", "3.png", "3.png", "3.png"), id="the next one that can be decoded"),
        pytest.param((3,), ("0.png", "1.png", "2.png", "0.png"), id="after the last the first"),
    ],
)
def test_another_takes_the_place_of_an_unreadable_image(
    tmp_path: Path, broken: tuple[int, ...], expected: tuple[str, ...]
) -> None:
    dataset = training_set(write_dataset(tmp_path))
    dataset.on_broken = "skip"
    for number in broken:
        file = tmp_path / f"{number}.png"
        file.write_bytes(file.read_bytes()[:-200])
    samples = [dataset[Draw(position, position)] for position in range(4)]
    assert tuple(sample.name for sample in samples) == expected
    for number, sample in enumerate(samples):
        assert bool(sample.left_out) == (number in broken)
        assert all(f"{number}.png" in line for line in sample.left_out[:1])


def test_where_no_image_can_be_decoded_skipping_ends(tmp_path: Path) -> None:
    dataset = training_set(write_dataset(tmp_path, (0, 1)))
    dataset.on_broken = "skip"
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UnreadableImage, match="none of the 2 images can be decoded"):
        _ = dataset[Draw(0, 0)]
