"""Masks of ids in every kind of file, and masks that show no objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.training.data.formats.samples import HEIGHT, WIDTH, two_objects, write_image, write_json
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.check import main
from training.data.formats.assemble import Header
from training.data.formats.locate import Origin, locate
from training.data.formats.masks.id_masks import MaskObjects, number_pieces, read_indices
from training.data.loading.source import load_training_data

HEADER = Header(WIDTH, HEIGHT, 1)
SPOTS = ((1, 1), (1, 15), (12, 2), (12, 20))


def spots(*values: int) -> np.ndarray:
    """Squares of 5x5 pixels, far from each other."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    for (top, left), value in zip(SPOTS, values, strict=False):
        ids[top : top + 5, left : left + 5] = value
    return ids


def with_alpha(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([two_objects(40, 80).astype(np.uint8)] * 3 + [alpha.astype(np.uint8)]))


GRAY = two_objects(40, 80).astype(np.uint8)
OPAQUE = np.full(GRAY.shape, 255)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("a.png", lambda path: Image.fromarray(GRAY).convert("RGB").save(path), id="equal channels"),
        pytest.param("a.bmp", lambda path: Image.fromarray(GRAY).convert("RGB").save(path), id="a BMP"),
        pytest.param("a.png", lambda path: with_alpha(OPAQUE).save(path), id="and opaque"),
        pytest.param("a.png", lambda path: Image.fromarray(GRAY).convert("LA").save(path), id="gray and opaque"),
        pytest.param("a.tif", lambda path: tifffile.imwrite(path, GRAY.astype(np.float32)), id="whole floats"),
        pytest.param("a.tif", lambda path: tifffile.imwrite(path, GRAY.astype(np.int32)), id="32 bits"),
    ],
)
def test_ids_are_read_from_any_gray_image(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    np.testing.assert_array_equal(read_indices(tmp_path / name, HEADER), GRAY)


@pytest.mark.parametrize("palette", [(0, 0, 0, 255, 255, 255), (0, 0, 0, 1, 1, 1), (0, 0, 0, 255, 0, 0)])
def test_ids_of_a_bmp_are_the_indices_of_its_palette(tmp_path: Path, palette: tuple[int, ...]) -> None:
    """Black and white too, of which Pillow takes the bytes for bits."""
    ids = (GRAY > 0).astype(np.uint8)
    image = Image.fromarray(ids).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_indices(tmp_path / "a.bmp", HEADER), ids)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        pytest.param(
            "a.png", lambda path: Image.fromarray(np.dstack([GRAY, GRAY, 255 - GRAY])).save(path),
            r"has colors \(mode RGB\), not ids", id="colors",
        ),
        pytest.param("a.jpg", lambda path: Image.fromarray(GRAY).save(path), "is a JPEG, which blurs", id="JPEG"),
        pytest.param("a.png", lambda path: with_alpha(GRAY > 0).save(path), "transparent in places", id="alpha"),
        pytest.param(
            "a.tif", lambda path: tifffile.imwrite(path, GRAY / np.float32(80)), "holds fractions", id="fractions"
        ),
        pytest.param(
            "a.tif",
            lambda path: tifffile.imwrite(path, np.dstack([GRAY.astype(np.uint16)] * 3), photometric="rgb"),
            "has colors of 16 bits",
            id="colors of 16 bits",
        ),
        pytest.param("a.png", lambda path: path.write_bytes(b"no picture"), "cannot be opened", id="no image"),
    ],
)  # fmt: skip
def test_what_holds_no_ids_is_refused(tmp_path: Path, name: str, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(BrokenRecord, match=message) as refused:
        read_indices(tmp_path / name, HEADER)
    assert refused.value.kind == "bad mask"


def test_pieces_are_those_of_a_search() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        values = random.integers(0, random.integers(2, 4), random.integers(1, 12, 2))
        np.testing.assert_array_equal(number_pieces(values), searched_pieces(values))


def searched_pieces(values: np.ndarray) -> np.ndarray:
    numbers = np.zeros_like(values)
    for start in zip(*np.nonzero(values), strict=True):
        if numbers[start]:
            continue
        number, waiting = numbers.max() + 1, [start]
        while waiting:
            y, x = waiting.pop()
            if numbers[y, x] == 0 and values[y, x] == values[start]:
                numbers[y, x] = number
                waiting += [
                    (row, column)
                    for row in range(max(y - 1, 0), min(y + 2, values.shape[0]))
                    for column in range(max(x - 1, 0), min(x + 2, values.shape[1]))
                ]
    return numbers


def mask_folder(folder: Path, *masks: np.ndarray) -> None:
    """images/ with masks/."""
    (folder / "masks").mkdir()
    for number, mask in enumerate(masks):
        write_image(folder / f"images/{number}.png")
        Image.fromarray(mask).save(folder / f"masks/{number}.png")


def object_folders(folder: Path, *masks: tuple[np.ndarray, ...]) -> None:
    """images/ with a folder of masks for each."""
    for number, some in enumerate(masks):
        write_image(folder / f"images/{number}.png")
        (folder / f"masks/{number}").mkdir(parents=True)
        for index, mask in enumerate(some):
            Image.fromarray(mask).save(folder / f"masks/{number}/{index}.png")


def read(folder: Path, mask_objects: MaskObjects = "auto") -> Dataset:
    return locate(Origin(folder, mask_objects=mask_objects)).read()["train"]


FOREGROUND = [
    pytest.param(lambda f: mask_folder(f, spots(255, 255, 255, 255), spots(255, 255)), 6, id="0 and 255"),
    pytest.param(lambda f: mask_folder(f, spots(1, 1, 1), spots(1), spots()), 4, id="0 and 1"),
    pytest.param(lambda f: mask_folder(f, spots(65535, 65535)), 2, id="16 bits"),
    pytest.param(lambda f: mask_folder(f, spots(1, 2, 1, 2), spots(2, 1, 2)), 7, id="two classes"),
    pytest.param(lambda f: object_folders(f, (spots(255, 255, 255),), (spots(255),)), 4, id="one file an image"),
    pytest.param(lambda f: object_folders(f, (spots(255, 255), spots(0, 0, 255, 255))), 4, id="a file for each class"),
]


@pytest.mark.parametrize(("write", "objects"), FOREGROUND)
def test_masks_of_foreground_are_refused_and_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None], objects: int
) -> None:
    write(tmp_path)
    with pytest.raises(DatasetError, match=r"separate pieces.*not objects.*--mask_objects pieces"):
        load_training_data(TrainConfig(data=tmp_path))
    with pytest.raises(SystemExit) as status:
        main([str(tmp_path)])
    assert status.value.code == 2
    assert "--mask_objects pieces" in capsys.readouterr().err
    assert sum(map(len, read(tmp_path, "pieces").annotations)) == objects
    config = TrainConfig(data=tmp_path, mask_objects="pieces")
    assert sum(map(len, load_training_data(config).train.annotations)) == objects
    assert sum(map(len, read(tmp_path, "values").annotations)) < objects


def specks() -> np.ndarray:
    mask = spots(7)
    mask[15, 25] = 7
    mask[1:6, 1:30] = 7
    return mask


@pytest.mark.parametrize(
    ("write", "objects"),
    [
        pytest.param(lambda f: mask_folder(f, spots(1, 1, 2), spots(1, 2, 3)), 5, id="one is behind a pole"),
        pytest.param(lambda f: mask_folder(f, spots(255), spots(1)), 2, id="one object an image"),
        pytest.param(lambda f: mask_folder(f, specks()), 1, id="a speck"),
        pytest.param(lambda f: object_folders(f, (spots(9), spots(0, 9, 9)), (spots(9),)), 3, id="a file each"),
    ],
)
def test_objects_in_pieces_are_no_reason_to_refuse(tmp_path: Path, write: Callable[[Path], None], objects: int) -> None:
    write(tmp_path)
    assert sum(map(len, read(tmp_path).annotations)) == objects


def test_one_object_an_image_is_said(tmp_path: Path) -> None:
    mask_folder(tmp_path, spots(255), spots(255))
    assert read(tmp_path).notes == ("each of 2 masks has one object",)


def test_a_mask_of_several_ids_is_no_single_object(tmp_path: Path) -> None:
    object_folders(tmp_path, (spots(1, 2, 3), spots(0, 0, 0, 255)))
    data = read(tmp_path)
    assert len(data.annotations[0]) == 1
    assert "has 3 values beside 0, but should show one object" in data.problems[0].message


def test_the_flag_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    record = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    write_json(tmp_path / "a.json", {"images": [record], "annotations": [], "categories": [{"id": 1, "name": "cat"}]})
    with pytest.raises(DatasetError, match=r"--mask_objects pieces is about instance_png and object_png, .* is coco"):
        read(tmp_path, "pieces")


def ids_on(background: int, *values: int) -> np.ndarray:
    """Two spots of other values on a background, in the corner one of them."""
    ids = np.full((HEIGHT, WIDTH), background, np.uint8)
    ids[0:6, 0:7], ids[10:15, 12:20] = values
    return ids


def crowded(background: int, number: int) -> np.ndarray:
    """Objects along the whole border, with a little of the background between them."""
    ids = np.kron(np.arange(30).reshape(5, 6) + 40 + number, np.ones((4, 5), np.int64))
    ids[:, ::5] = background
    return ids.astype(np.uint8)


def write_masks(folder: Path, *masks: np.ndarray, palette: bool = False) -> None:
    (folder / "masks").mkdir()
    for number, mask in enumerate(masks):
        write_image(folder / f"images/{number}.png")
        image = Image.fromarray(mask)
        if palette:
            image.putpalette(bytes(range(256)) * 3)
        image.save(folder / f"masks/{number}.png")


def inverted_objects(folder: Path) -> None:
    """A PNG for each object, black on white."""
    for image in "ab":
        write_image(folder / image / "images" / f"{image}.png")
        (folder / image / "masks").mkdir()
        for number, mask in enumerate((ids_on(255, 0, 255), ids_on(255, 255, 0))):
            Image.fromarray(mask).save(folder / image / "masks" / f"{number}.png")


@pytest.mark.parametrize(
    ("write", "value"),
    [
        pytest.param(lambda folder: write_masks(folder, *[ids_on(255, 1, 2)] * 4), 255, id="white"),
        pytest.param(lambda folder: write_masks(folder, ids_on(255, 1, 2)), 255, id="a single image"),
        pytest.param(
            lambda folder: write_masks(folder, *[ids_on(3, 0, 1), ids_on(3, 2, 1)], palette=True), 3, id="palette order"
        ),
        pytest.param(lambda folder: write_masks(folder, *[ids_on(1, 0, 2)] * 3), 1, id="0 is an object"),
        pytest.param(lambda folder: write_masks(folder, ids_on(9, 1, 2), ids_on(7, 3, 4)), 9, id="one in each file"),
        pytest.param(lambda folder: write_masks(folder, *(crowded(255, n) for n in range(3))), 255, id="crowded"),
        pytest.param(inverted_objects, 1, id="black objects"),
    ],
)
@pytest.mark.parametrize("objects", ["auto", "pieces"])
def test_a_background_that_is_not_zero_is_refused(
    tmp_path: Path, write: Callable[[Path], None], value: int, objects: MaskObjects
) -> None:
    write(tmp_path)
    with pytest.raises(DatasetError, match=rf"not 0 but {value} lies along the borders .* --mask_objects values"):
        locate(Origin(tmp_path, mask_objects=objects)).read()
    assert len(locate(Origin(tmp_path, mask_objects="values")).read()["train"]) > 0


@pytest.mark.parametrize(
    ("masks", "objects"),
    [
        pytest.param([ids_on(0, 1, 2)] * 3, 6, id="0 around"),
        pytest.param([ids_on(0, 1, 2), ids_on(9, 1, 2), ids_on(0, 1, 2)], 7, id="an object that fills one image"),
        pytest.param([crowded(0, number) for number in range(3)], None, id="crowded on 0"),
        pytest.param([ids_on(0, 0, 0)] * 3 + [ids_on(0, 1, 2)], 2, id="images without objects"),
    ],
)
def test_a_background_of_zero_is_none_of_the_objects(
    tmp_path: Path, masks: list[np.ndarray], objects: int | None
) -> None:
    write_masks(tmp_path, *masks)
    data = locate(Origin(tmp_path)).read()["train"]
    if objects is not None:
        assert sum(map(len, data.annotations)) == objects
