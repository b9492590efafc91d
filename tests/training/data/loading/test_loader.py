"""The order of batches and the randomness of samples follow from the seed and the position alone."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.architecture import ArchitectureConfig
from model.runtime.images.values.intensity import Intensity
from training.config import AugmentConfig
from training.data.augmentation.transforms import Augmentation
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.loading.loader import GroupedBatches, make_loader, workers_by_rule
from training.data.loading.samples import Draw, TrainingSet, UnreadableImage, load_stored
from training.data.shapes import write_shapes

RATIOS = [0.6, 1.5, 1.4, 0.7, 1.6, 2.5, 0.8, 1.3, 0.4, 1.2]


def test_batches_hold_one_shape_of_image_and_lose_none() -> None:
    batches = list(GroupedBatches(RATIOS, 2, seed=3, skip=0, count=200))
    for batch in batches:
        ratios = [RATIOS[draw.image] for draw in batch]
        assert len({int(np.digitize(ratio, (0.5, 1.0, 2.0))) for ratio in ratios}) == 1
    counts = np.bincount([draw.image for batch in batches for draw in batch], minlength=len(RATIOS))
    assert counts.max() - counts.min() <= 2
    positions = [draw.position for batch in batches for draw in batch]
    assert len(set(positions)) == len(positions)


def test_resuming_goes_on_with_the_next_batch() -> None:
    everything = list(GroupedBatches(RATIOS, 3, seed=5, skip=0, count=12))
    rest = list(GroupedBatches(RATIOS, 3, seed=5, skip=7, count=12))
    assert rest == everything[7:]
    assert list(islice(GroupedBatches(RATIOS, 3, seed=6, skip=0, count=12), 3)) != everything[:3]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=6, val=1, seed=0)
    data = load_coco(*find_splits(folder, "masks").train)
    augmentation = Augmentation(
        AugmentConfig(crop=96, brightness=0.2), ArchitectureConfig(num_classes=data.num_classes)
    )
    return TrainingSet(data, augmentation, seed=1)


def batch_list(dataset: TrainingSet, workers: int, skip: int) -> list[tuple[list[str], list[torch.Tensor]]]:
    loader = make_loader(dataset, batch_size=2, workers=workers, skip=skip, count=4, same_size=True, pin=False)
    return [(batch.names, batch.images) for batch in loader]


def test_workers_and_resuming_change_nothing(dataset: TrainingSet) -> None:
    everything = batch_list(dataset, workers=0, skip=0)
    assert len(everything) == 4
    for other, expected in ((batch_list(dataset, 1, 0), everything), (batch_list(dataset, 0, 2), everything[2:])):
        assert [names for names, _ in other] == [names for names, _ in expected]
        for (_, images), (_, same) in zip(other, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(images, same, strict=True))


@pytest.mark.parametrize(
    ("on_gpu", "processes", "cores", "workers"),
    [
        pytest.param(False, 1, 64, 1, id="a CPU's cores train"),
        pytest.param(False, 4, 2, 1, id="more processes than cores"),
        pytest.param(True, 1, 1, 1, id="a GPU beside one core"),
        pytest.param(True, 1, 2, 1, id="one core feeds it"),
        pytest.param(True, 1, 6, 5, id="and the others load"),
        pytest.param(True, 8, 32, 3, id="eight GPUs share them"),
        pytest.param(True, 8, 4, 1, id="each has one at least"),
        pytest.param(True, 8, 192, 8, id="more would wait"),
    ],
)
def test_who_loads_images_by_rule(on_gpu: bool, processes: int, cores: int, workers: int) -> None:
    assert workers_by_rule(on_gpu, processes, cores) == workers


def test_loading_leaves_the_global_generator_alone(dataset: TrainingSet) -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    batch_list(dataset, workers=0, skip=3)
    assert torch.equal(torch.rand(2), expected)


def test_annotations_refer_to_the_stored_orientation(dataset: TrainingSet, tmp_path: Path) -> None:
    """COCO's sizes and boxes are those of the file; serving turns the picture upright, training must not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    record = replace(dataset.data.images[0], path=path, width=20, height=10)
    assert load_stored(record).shape == (10, 20, 3)


def test_deep_images_are_trained_as_they_are_served(dataset: TrainingSet, tmp_path: Path) -> None:
    record = dataset.data.images[0]
    gray = load_stored(record)[..., 1]
    deep = replace(record, path=tmp_path / "deep.png")
    Image.fromarray(gray.astype(np.uint16) * 16).save(deep.path)
    assert np.abs(load_stored(deep)[..., 0].astype(int) - gray).max() < 16  # some of it may be a dark current
    assert load_stored(deep, Intensity(mode="full-range")).max() <= 16
    data = replace(dataset.data, images=(deep, *dataset.data.images[1:]))
    for intensity, bright in ((Intensity(), True), (Intensity(mode="full-range"), False)):
        image, _, _, _ = TrainingSet(data, dataset.augmentation, seed=1, intensity=intensity)[Draw(0, 0)]
        assert (image.max() > 32) == bright


def test_an_image_that_changed_is_named(dataset: TrainingSet, tmp_path: Path) -> None:
    record = replace(dataset.data.images[0], path=tmp_path / "swapped.png")
    Image.new("RGB", (10, 12)).save(record.path)
    with pytest.raises(UnreadableImage, match=r"swapped\.png is 10x12 pixels"):
        load_stored(record)
    record.path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UnreadableImage, match=r"swapped\.png"):
        load_stored(record)
