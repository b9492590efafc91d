"""A dataset's fingerprint: what changes it, and what does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from training.data.checking.content import PIECE, fingerprint
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco

Document = dict[str, Any]


def of(folder: Path) -> str:
    return fingerprint(load_coco(*find_splits(folder, "masks").train))


def edit(change: Callable[[Document], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "annotations" / "instances_train.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    return apply


def first_image(folder: Path, document: Document) -> Path:
    return folder / "images" / str(document["images"][0]["file_name"])


def on_first_image(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        change(first_image(folder, json.loads((folder / "annotations" / "instances_train.json").read_text())))

    return apply


def invert(path: Path) -> None:
    with Image.open(path) as image:
        ImageOps.invert(image.convert("RGB")).save(path)


def call_otherwise(folder: Path) -> None:
    """The first image under another name."""

    def rename(document: Document) -> None:
        old = first_image(folder, document)
        document["images"][0]["file_name"] = "other.png"
        old.rename(old.with_name("other.png"))

    edit(rename)(folder)


def renumber(document: Document) -> None:
    for image in document["images"]:
        image["id"] += 1000
    for annotation in document["annotations"]:
        annotation["image_id"] += 1000
        annotation["id"] += 5000


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param(lambda folder: None, True, id="it lies elsewhere"),
        pytest.param(call_otherwise, True, id="a file is called otherwise"),
        pytest.param(edit(renumber), True, id="ids are others"),
        pytest.param(edit(lambda d: d.update(info={"date": "today"})), True, id="what nobody learns from"),
        pytest.param(edit(lambda d: d["annotations"].pop()), False, id="an object less"),
        pytest.param(edit(lambda d: d["annotations"][0]["bbox"].__setitem__(0, 1.5)), False, id="a box moved"),
        pytest.param(edit(lambda d: d["annotations"][0].update(iscrowd=1)), False, id="a crowd region"),
        pytest.param(
            edit(lambda d: d["annotations"][0].update(category_id=d["categories"][1]["id"])), False, id="a label"
        ),
        pytest.param(edit(lambda d: d["categories"][0].update(name="other")), False, id="a class's name"),
        pytest.param(edit(lambda d: d["images"].pop()), False, id="an image less"),
        pytest.param(edit(lambda d: d["images"].reverse()), False, id="another order, and so other batches"),
        pytest.param(on_first_image(invert), False, id="other pixels under the same name"),
    ],
)
def test_what_changes_it(change: Callable[[Path], object], same: bool, shapes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    change(copy)
    assert (of(copy) == of(shapes)) == same


@pytest.mark.parametrize("place", [0, 5 * PIECE, -1], ids=["start", "middle", "end"])
def test_of_large_files_pieces_are_read(place: int, shapes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    marked = bytearray(10 * PIECE)

    def write(path: Path) -> None:
        path.write_bytes(marked)

    on_first_image(write)(copy)
    before = of(copy)
    marked[place] = 1
    on_first_image(write)(copy)
    assert of(copy) != before


@pytest.mark.parametrize("rows", [(80, 200), (430, 440), (299, 300)], ids=["a fifth", "ten rows", "one row"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("a.tif", {}, id="TIFF"),
        pytest.param("a.tif", {"compression": "tiff_lzw"}, id="TIFF, compressed"),
        pytest.param("a.bmp", {}, id="BMP"),
        pytest.param("a.png", {}, id="PNG"),
        pytest.param("a.png", {"compress_level": 0}, id="PNG, not compressed"),
        pytest.param("a.jpg", {"quality": 95}, id="JPEG"),
        pytest.param("a.webp", {}, id="WebP"),
    ],
)
def test_rows_between_the_pieces_count(
    name: str, options: dict[str, Any], rows: tuple[int, int], shapes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 700, 3), np.uint8)

    def write(document: Document) -> None:
        document["images"] = [document["images"][0] | {"file_name": name}]
        Image.fromarray(pixels).save(copy / "images" / name, **options)

    edit(write)(copy)
    before = of(copy)
    pixels[slice(*rows)] = 0
    edit(write)(copy)
    assert of(copy) != before
