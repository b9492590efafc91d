"""A dataset in flat arrays: reads like the objects that were put in, and costs its workers nothing."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.runtime.detections import RLE
from tests.training.forking import forkserver
from training.data.annotations.dataset import Category, Dataset
from training.data.annotations.fields import Segmentation
from training.data.annotations.packed import PackedAnnotations, PackedImages
from training.data.annotations.records import Annotations, ImageRecord
from training.data.annotations.segmentations import PackedSegmentations

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
RUNS = RLE((20, 30), b"`0:8000000000000000000")


def ring(*points: float) -> NDArray[np.float64]:
    return np.array(points, np.float64).reshape(-1, 2)


TWO_PARTS: Segmentation = (ring(0, 0, 5, 0, 5, 5.1), ring(1 / 3, 2, 9, 2, 9, 8, 1, 8))
TRIANGLE: Segmentation = (ring(1, 1, 4, 1, 4, 4),)


def objects_with(*segmentations: Segmentation, first: int = 1, keypoints: bool = True) -> Annotations:
    """One object for each segmentation; every number in it is another."""
    count = len(segmentations)
    numbers = np.arange(first, first + count)
    return Annotations(
        ids=numbers * 10,
        xywh=numbers[:, None] + np.arange(4) / 7,
        labels=numbers % 2 + 1,
        crowd=numbers % 3 == 0,
        area=numbers / 3,
        segmentations=segmentations,
        keypoints=(numbers[:, None, None] + np.arange(6).reshape(2, 3) / 7).astype(np.float32) if keypoints else None,
    )


IMAGES = (
    objects_with(TWO_PARTS, RUNS, None),
    objects_with(),
    objects_with(RUNS, (), RLE((1, 1), b""), TRIANGLE, TWO_PARTS, first=4),
    objects_with(),
)


def assert_same(found: Annotations, expected: Annotations) -> None:
    for name in ("ids", "xywh", "labels", "crowd", "area", "keypoints"):
        got, wanted = getattr(found, name), getattr(expected, name)
        assert (got is None) == (wanted is None)
        if wanted is not None:
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
    assert len(found.segmentations) == len(expected.segmentations)
    for one, other in zip(found.segmentations, expected.segmentations, strict=True):
        assert type(one) is type(other)
        if isinstance(other, tuple):
            assert isinstance(one, tuple)
            assert [polygon.tobytes() for polygon in one] == [polygon.tobytes() for polygon in other]
            assert all(polygon.dtype == np.float64 and polygon.shape[1:] == (2,) for polygon in one)
        else:
            assert one == other


def plainly_pickled(data: Any) -> Any:
    return pickle.loads(pickle.dumps(data))


@pytest.mark.parametrize("way", [lambda packed: packed, plainly_pickled, copy.copy, copy.deepcopy])
def test_what_was_put_in_comes_out(way: Callable[[Any], Any]) -> None:
    packed = way(PackedAnnotations.pack(IMAGES))
    assert len(packed) == len(IMAGES)
    for found, expected in zip(packed, IMAGES, strict=True):
        assert_same(found, expected)
    assert_same(packed[-2], IMAGES[2])
    assert [len(objects) for objects in packed[1:3]] == [0, 5]
    with pytest.raises(IndexError):
        packed[4]


def test_a_dataset_without_keypoints_and_one_without_images() -> None:
    packed = PackedAnnotations.pack([objects_with(TRIANGLE, keypoints=False), objects_with(keypoints=False)])
    assert_same(packed[0], objects_with(TRIANGLE, keypoints=False))
    assert list(PackedAnnotations.pack([])) == []
    assert list(PackedImages.pack([])) == []


def test_images_with_and_without_keypoints_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 images have keypoints"):
        PackedAnnotations.pack([objects_with(TRIANGLE), objects_with(keypoints=False)])


def test_a_selection_is_that_of_the_objects() -> None:
    packed = PackedAnnotations.pack(IMAGES)
    for rows in ([], [3], [4, 0, 0], np.array([True, False, False, True, True])):
        chosen = packed[2].select(rows)
        assert_same(chosen, IMAGES[2].select(rows))
        assert_same(chosen.select(range(len(chosen))[::-1]), IMAGES[2].select(rows).select(range(len(chosen))[::-1]))
    assert packed[2].segmentations[-1] is not None
    assert packed[2].segmentations[1:3] != ()
    assert list(packed[2].segmentations[1:3]) == [(), RLE((1, 1), b"")]


def test_labels_change_and_those_without_a_new_one_go() -> None:
    packed = PackedAnnotations.pack(IMAGES)
    kept = packed.relabel(np.array([0, 0, 7]))
    for found, expected in zip(kept, IMAGES, strict=True):
        rows = np.flatnonzero(expected.labels == 2)
        assert found.labels.tolist() == [7] * len(rows)
        assert found.ids.tolist() == expected.ids[rows].tolist()
        assert len(found.segmentations) == len(rows)
    assert kept.nbytes < packed.nbytes
    swapped = packed.relabel(np.array([0, 2, 1]))
    assert [objects.labels.tolist() for objects in swapped] == [(3 - objects.labels).tolist() for objects in IMAGES]
    assert_same(packed[0], IMAGES[0])


def test_nothing_can_be_written_into_the_store() -> None:
    packed = PackedAnnotations.pack(IMAGES)
    polygons = packed[0].segmentations[0]
    assert isinstance(polygons, tuple)
    for array in (packed[0].ids, packed[0].xywh, polygons[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    packed[0].boxes[0] = 1
    packed[0].select([0]).ids[0] = 1
    assert_same(packed[0], IMAGES[0])


@pytest.mark.parametrize(
    "file", ["a.png", "sub folder/ä 日本.jpg", "half \ud800 pair.png", "", "../up.png", "/abs.png"]
)
def test_image_records_come_out_as_they_went_in(file: str) -> None:
    records = [
        ImageRecord(2**40, Path("data") / file, 30, 20, file),
        ImageRecord(-1, Path("/else where"), 1, 2**33, "x"),
    ]
    packed = PackedImages.pack(records)
    assert list(packed) == records
    assert packed[-2:] == tuple(records)
    assert plainly_pickled(packed)[0] == records[0]
    assert PackedImages.pack(packed) is packed


def dataset(images: int, masks: int) -> Dataset:
    """So many images with so many masks each, alternately of 12 points and RLE."""
    outline: Segmentation = (np.linspace(0, 20, 24).reshape(12, 2),)
    objects = Annotations(
        ids=np.arange(images * masks),
        xywh=np.ones((images * masks, 4)),
        labels=np.ones(images * masks, np.int64),
        crowd=np.zeros(images * masks, np.bool_),
        area=np.ones(images * masks),
        segmentations=[outline, RUNS] * (images * masks // 2),
    )
    return Dataset(
        name="many",
        root=Path("many"),
        categories=(Category(1, "thing"),),
        images=[
            ImageRecord(number, Path("many") / f"{number}.png", 30, 20, f"{number}.png") for number in range(images)
        ],
        annotations=PackedAnnotations(objects, np.arange(images + 1) * masks),
    )


def objects_of(images: int, masks: int) -> int:
    """Blocks of memory that Python holds for a dataset: about one for each of its objects."""
    gc.collect()
    before = sys.getallocatedblocks()
    data = dataset(images, masks)
    gc.collect()
    assert len(data) == images
    return sys.getallocatedblocks() - before


def test_neither_masks_nor_images_are_python_objects() -> None:
    objects_of(2, 2)
    few = objects_of(2, 2)
    assert objects_of(2, 10_000) < few + 200
    assert objects_of(2_000, 2) < few + 200


def test_one_image_is_pickled_without_the_others() -> None:
    data = dataset(100, 100)
    assert len(pickle.dumps(data.annotations[7])) < 30_000 < len(pickle.dumps(data.annotations))
    assert_same(plainly_pickled(data.annotations[7]), data.annotations[7])


def read_everything(data: Dataset, answers: Connection) -> None:
    """In a worker: the number of points, its unshared memory in bytes, and the shared files that it sees."""
    points = 0
    for record, objects in zip(data.images, data.annotations, strict=True):
        assert record.width == 30
        assert objects.area.sum() == len(objects)
        # every page is touched, and none twice
        points += sum(len(mask[0]) for mask in objects.segmentations[::20] if isinstance(mask, tuple))
    memory = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:arrays" in line]
    answers.send((points, int(memory["Private_Dirty"].split()[0]) * 1024, sorted(fields[4] for fields in maps)))


def open_blocks() -> int:
    """Shared files that this process holds open to hand them on."""
    descriptors = os.listdir("/proc/self/fd")
    names = [
        os.readlink(f"/proc/self/fd/{number}") for number in descriptors if os.path.exists(f"/proc/self/fd/{number}")
    ]
    return sum("memfd:arrays" in name for name in names)


@LINUX
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_read_one_block_and_do_not_grow_with_the_dataset(method: str) -> None:
    # Their common class does not know Process.
    context: Any = forkserver() if method == "forkserver" else multiprocessing.get_context(method)
    small, large = dataset(2, 20), dataset(1_000, 200)
    assert isinstance(large.annotations, PackedAnnotations)
    size = large.annotations.nbytes
    workers, receivers = [], []
    for data in (small, large, large):
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=read_everything, args=(data, sender))
        worker.start()
        sender.close()
        workers.append(worker)
        receivers.append(receiver)
    (_, alone, _), (points, first, seen), (same_points, second, also_seen) = [item.recv() for item in receivers]
    for worker in workers:
        worker.join()
        worker.close()
    for receiver in receivers:
        receiver.close()
    assert points == same_points == 12 * 1_000 * 10
    assert size > 25_000_000
    assert max(first, second) - alone < size / 4
    assert seen == also_seen
    assert len(seen) == 3
    assert open_blocks() > 0
    assert_same(large.annotations[999], dataset(1_000, 200).annotations[999])  # the parent's moved too
    del data, small, large
    gc.collect()
    assert open_blocks() == 0


def test_a_copy_of_a_shared_store_is_on_its_own() -> None:
    packed = PackedSegmentations.pack([TWO_PARTS, RUNS])
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=len, args=(packed,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    for other in (packed, plainly_pickled(packed), copy.deepcopy(packed)):
        assert_same(objects_with(*other), objects_with(TWO_PARTS, RUNS))
