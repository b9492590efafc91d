"""COCO results: the service's, with the ids of a dataset or running numbers, and the file that says whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from tests.service.harness import LABELS, Server
from tests.service.predict_many.running import predict

CATEGORIES = {LABELS[2]: 5, LABELS[0]: 0, "of the dataset alone": 7, LABELS[1]: 90}


def dataset(folder: Path, ids: dict[str, int | str], categories: dict[str, int]) -> Path:
    file = folder / "dataset.json"
    images = [{"id": image_id, "file_name": name} for name, image_id in ids.items()]
    document = {"images": images, "categories": [{"id": number, "name": name} for name, number in categories.items()]}
    file.write_text(json.dumps(document))
    return file


def expected(server: Server, images: Path, ids: dict[str, int | str], categories: dict[str, int]) -> list[Any]:
    found = []
    for name, image_id in ids.items():
        entries = server.predict((images / name).read_bytes(), format="coco", score_threshold=0.1).json()
        names = [LABELS[entry["category_id"] - 1] for entry in entries]
        found += [
            {**entry, "image_id": image_id, "category_id": categories[label]}
            for label, entry in zip(names, entries, strict=True)
        ]
    return found


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param({"13.png": 30, "below/03.png": 7, "02.png": 1000}, id="numbers"),
        pytest.param({"13.png": 30, "below/03.png": "x-7", "02.png": "2"}, id="a text among them"),
    ],
)
def test_results_have_the_dataset_s_ids(
    ids: dict[str, int | str], repository: Path, images: Path, server: Server, tmp_path: Path
) -> None:
    file = dataset(tmp_path, ids, CATEGORIES)
    flags = ["--images", images, "--format", "coco", "--score_threshold", "0.1", "--output"]
    assert predict(repository, file, *flags, tmp_path / "out") == 0
    numbered = {name: int(one) if str(one).isdecimal() else one for name, one in ids.items()}
    results = json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert results == expected(server, images, numbered, CATEGORIES)
    known = json.loads((tmp_path / "out" / "images.json").read_bytes())
    assert {one["file_name"]: one["id"] for one in known["images"]} == numbered
    loaded = COCO(str(tmp_path / "out" / "images.json")).loadRes(str(tmp_path / "out" / "results.json"))
    assert len(loaded.anns) == len(results) > 10
    assert {one["id"]: one["name"] for one in loaded.loadCats(loaded.getCatIds())} == {
        number: name for name, number in CATEGORIES.items()
    }


def test_without_a_dataset_images_are_numbered_and_a_bad_one_says_why(
    repository: Path, images: Path, server: Server, tmp_path: Path
) -> None:
    assert predict(repository, images, "--format=coco", "--score-threshold=0.1", "--output", tmp_path) == 1
    known = json.loads((tmp_path / "images.json").read_bytes())
    assert [one["id"] for one in known["images"]] == list(range(1, 41))
    assert known["categories"] == [{"id": number, "name": name} for number, name in enumerate(LABELS, 1)]
    bad = {Path(one["file_name"]).name: one for one in known["images"] if "error" in one}
    assert set(bad) == {"cut.png", "empty.png", "text.png", "zz.png"}
    assert all("width" not in one and one["detail"] for one in bad.values())
    ids = {str(Path(one["file_name"]).relative_to(images)): one["id"] for one in known["images"] if "width" in one}
    assert json.loads((tmp_path / "results.json").read_bytes()) == expected(
        server, images, ids, {name: number for number, name in enumerate(LABELS, 1)}
    )


def test_a_class_that_the_dataset_has_not_is_refused(
    repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = dataset(tmp_path, {"02.png": 1}, {LABELS[0]: 1})
    flags = ["--images", images, "--format", "coco", "--quiet", "--output"]
    assert predict(repository, file, *flags, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said == (
        f"maskserve: {file} has the categories circle, and none for the model's ring, broken, square: leave them out "
        f"with --labels, or name them alike\n"
    )
    assert predict(repository, file, *flags, tmp_path / "out", "--labels", LABELS[0]) == 0
