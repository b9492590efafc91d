"""`--results`: what predict-many wrote has the figures of the model that it ran, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.predict_many.__main__ import main as predict_many
from tests.service.harness import LABELS, encode, picture, publish_probe
from tests.service.probe import CANDIDATES
from training.evaluate import main

SIZE = (64, 80)
IDS = {"c.png": 30, "a.png": 10, "b.png": 7}
CATEGORIES = {LABELS[2]: 5, LABELS[0]: 11, LABELS[1]: 90}
"""Another order than the model's, with holes."""
THRESHOLD = ("--score_threshold", "0.2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish_probe(tmp_path_factory.mktemp("staging"), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO dataset of three images in which the probe's first four candidates are annotated, as boxes of theirs."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "val").mkdir()
    (folder / "annotations").mkdir()
    height, width = SIZE
    annotations: list[dict[str, Any]] = []
    for seed, (name, image_id) in enumerate(IDS.items()):
        (folder / "val" / name).write_bytes(encode(picture(seed, SIZE)))
        for _, label, (left, top, right, bottom) in CANDIDATES[:4]:
            x, y, w, h = left * width, top * height, (right - left) * width, (bottom - top) * height
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[LABELS[label - 1]],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    document = {
        "images": [{"id": id_, "file_name": name, "width": width, "height": height} for name, id_ in IDS.items()],
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
        "annotations": annotations,
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def results(models: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    flags = ["--images", str(data / "val"), "--format", "coco", "--output", str(folder), "--models", str(models)]
    assert predict_many([str(data / "annotations" / "instances_val.json"), *flags, "--score-threshold", "0.2"]) == 0
    return folder / "results.json"


def figures(data: Path, folder: Path, *evaluated: str) -> dict[str, Any]:
    file = folder / "figures.json"
    assert main([*evaluated, f"--data={data}", f"--json={file}", *THRESHOLD]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_figures_are_the_model_s(models: Path, data: Path, results: Path, tmp_path: Path) -> None:
    of_results = figures(data, tmp_path, f"--results={results}")
    of_model = figures(data, tmp_path, f"--model={models / 'probe' / '1'}")
    assert of_results.keys() == of_model.keys() >= {"box", "mask", "boundary"}
    assert of_model["box"]["AP"] > 0.5
    for kind in ("box", "mask", "boundary"):
        by_class = {one["name"]: one["AP"] for one in of_model[kind]["per_class"]}
        assert {one["name"]: one["AP"] for one in of_results[kind]["per_class"]} == pytest.approx(by_class)


def without(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


ENTRY = {"image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}
MASK = {"size": [64, 80], "counts": "P`:"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("{", "holds no COCO results: it: Invalid JSON", id="half a JSON"),
        pytest.param({"images": []}, "holds no COCO results: it: Input should be a valid array", id="a dataset"),
        pytest.param([ENTRY, without(ENTRY, "score")], "score of entry 1: Field required", id="no score"),
        pytest.param([{**ENTRY, "segmentation": [[1, 1, 2, 2, 3, 3]]}], "segmentation of entry 0:", id="polygons"),
        pytest.param([{**ENTRY, "segmentation": MASK}, ENTRY], "only some entries", id="a mask of two"),
        pytest.param([{**ENTRY, "category_id": 1}], "has the category 1, and ", id="label ids"),
        pytest.param([{**ENTRY, "image_id": 1}], "none of their ids is there", id="other images"),
        pytest.param(
            [{**ENTRY, "segmentation": {"size": [80, 64], "counts": "P`:"}}],
            "a mask of b.png has size (80, 64), the image (64, 80)",
            id="a turned image",
        ),
        pytest.param(None, "cannot be read: No such file or directory", id="no file"),
    ],
)
def test_results_that_do_not_fit_are_one_line(
    content: object, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        main([f"--results={file}", f"--data={data}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_running_numbers_are_not_taken_for_the_dataset_s_ids(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As images.json beside the results tells."""
    (tmp_path / "results.json").write_text(json.dumps([ENTRY]))
    (tmp_path / "images.json").write_text(json.dumps({"images": [{"id": 7, "file_name": "elsewhere/c.png"}]}))
    with pytest.raises(SystemExit):
        main([f"--results={tmp_path / 'results.json'}", f"--data={data}"])
    assert "says that image 7 is elsewhere/c.png, and the data that it is b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        pytest.param(("one/a.png", "two/a.png"), False, id="the dataset's own"),
        pytest.param(("/data/val/one/a.png", "./val/two/a.png"), False, id="paths"),
        pytest.param(("one\\a.png", "two\\a.png"), False, id="of Windows"),
        pytest.param(("two/a.png", "one/a.png"), True, id="the other way round"),
        pytest.param(("/data/val/two/a.png", "/data/val/one/a.png"), True, id="paths, the other way round"),
    ],
)
def test_images_of_one_name_in_two_folders_are_told_apart(
    names: tuple[str, str], is_told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Running numbers of a folder's images would else be taken for the dataset's ids, in another order."""
    files = {1: "one/a.png", 2: "two/a.png"}
    for seed, file in files.items():
        (tmp_path / "val" / file).parent.mkdir(parents=True)
        (tmp_path / "val" / file).write_bytes(encode(picture(seed, SIZE)))
    box = {"bbox": [1, 2, 30, 40], "area": 1200, "category_id": 1}
    document = {
        "images": [{"id": id_, "file_name": name, "width": SIZE[1], "height": SIZE[0]} for id_, name in files.items()],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{**box, "id": id_, "image_id": id_} for id_ in files],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(document))
    entries = [{"image_id": id_, "category_id": 1, "bbox": box["bbox"], "score": 0.9} for id_ in files]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    known = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    (tmp_path / "images.json").write_text(json.dumps({"images": known}))
    words = [f"--results={tmp_path / 'results.json'}", f"--data={tmp_path}"]
    if not is_told:
        assert main(words) == 0
        return
    with pytest.raises(SystemExit):
        main(words)
    assert f"says that image 1 is {names[0]}, and the data that it is one/a.png" in capsys.readouterr().err


def test_a_table_of_predict_many_says_how_it_becomes_results(
    data: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--images", str(data / "val"), "--output", str(tmp_path), "--models", str(models), *THRESHOLD]
    assert predict_many([str(data / "annotations" / "instances_val.json"), *flags]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([f"--results={tmp_path / 'detections.parquet'}", f"--data={data}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "detections.parquet is a table, and no COCO results: predict-many makes those" in line
    assert predict_many([str(data / "annotations" / "instances_val.json"), *flags, "--format=coco"]) == 0
    assert "3 of 3 images are there already" in capsys.readouterr().err, "as the line says"
    assert main([f"--results={tmp_path / 'results.json'}", f"--data={data}"]) == 0


def test_images_that_were_not_predicted_are_not_taken_for_empty_ones(
    data: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a list of some of them; the others would lower the figures."""
    kept = [one for one in json.loads(results.read_bytes()) if one["image_id"] != 7]
    (tmp_path / "results.json").write_text(json.dumps(kept))
    beside = json.loads(results.with_name("images.json").read_bytes())
    beside["images"] = [one for one in beside["images"] if one["id"] != 7]
    (tmp_path / "images.json").write_text(json.dumps(beside))
    with pytest.raises(SystemExit) as stopped:
        main([f"--results={tmp_path / 'results.json'}", f"--data={data}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "images.json lacks 1 of the 3 images of the data, such as 7, b.png: predict the images of" in line
    (tmp_path / "images.json").unlink()
    assert main([f"--results={tmp_path / 'results.json'}", f"--data={data}"]) == 0


def test_results_have_no_engine(data: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--results={results}", f"--data={data}", "--threads=2"])
    assert "results are there already: leave out --engine" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([f"--results={results}", "--model=x", f"--data={data}"])
    assert "not allowed with argument" in capsys.readouterr().err
