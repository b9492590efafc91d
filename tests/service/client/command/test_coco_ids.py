"""--image-ids: results have the user's own ids, or nothing is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from pycocotools.coco import COCO

from service.client.command.coco_ids import read_ids
from service.client.command.inputs import Input, UsageError, find_images
from service.client.command.main import ExitCode, main
from tests.service.client.loopback import NOTHING_FOUND, Reply, loopback
from tests.service.harness import LABELS, Server

PLAIN = {"a.png": 30, "b.JPG": 10, "more/c.tiff": 20}


def coco(images: dict[str, Any], categories: dict[str, int] | None = None) -> str:
    document: dict[str, Any] = {"images": [{"id": number, "file_name": name} for name, number in images.items()]}
    if categories is not None:
        document["categories"] = [{"id": number, "name": name} for name, number in categories.items()]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(coco(PLAIN), [30, 10, 20], id="COCO"),
        pytest.param(json.dumps(json.loads(coco(PLAIN))["images"]), [30, 10, 20], id="COCO's list of images alone"),
        pytest.param(json.dumps(PLAIN), [30, 10, 20], id="JSON object"),
        pytest.param("\ufeff" + json.dumps(PLAIN), [30, 10, 20], id="JSON with a byte order mark"),
        pytest.param("a.png,30\nb.JPG,10\nmore/c.tiff,20\n", [30, 10, 20], id="CSV"),
        pytest.param("id,width,file_name\n30,7,a.png\n10,7,b.JPG\n20,7,more/c.tiff\n", [30, 10, 20], id="CSV's header"),
        pytest.param(
            "\ufeffname;id\r\na.png;30\r\nb.JPG;10\r\n\r\nmore/c.tiff;20\r\n", [30, 10, 20], id="a spreadsheet"
        ),
        pytest.param("a.png\t30.0\nb.JPG\t10.0\nmore/c.tiff\t20.0\n", [30, 10, 20], id="numbers as pandas writes them"),
        pytest.param(json.dumps({"a.png": 3.0, "b.JPG": "1", "c.tiff": "x-7"}), [3, 1, "x-7"], id="ids of all kinds"),
        pytest.param("a.png,007\nb.JPG,7\nc.tiff,-7\n", ["007", 7, -7], id="zeros before a number make it a text"),
        pytest.param(
            "a.png,9223372036854775807\nb.JPG,9223372036854775808\nc.tiff,123456789012345678901234567890\n",
            [2**63 - 1, "9223372036854775808", "123456789012345678901234567890"],
            id="what 64 bits do not hold is a text",
        ),
        pytest.param(coco({**PLAIN, "other.png": 7}), [30, 10, 20], id="more images than are sent"),
        pytest.param(
            coco({"images/a.png": 1, "/home/me/images/b.JPG": 2, "C:\\data\\more\\c.tiff": 3}), [1, 2, 3], id="folders"
        ),
        pytest.param(
            coco({"images/a.png": 1, "masks/a.png": 4, "b.JPG": 2, "more/c.tiff": 3, "less/c.tiff": 5}),
            [1, 2, 3],
            id="one name in several folders",
        ),
        pytest.param(
            json.dumps({**PLAIN, "x/a.png": 1, "y/a.png": 2, "more/a.png": 3}), [30, 10, 20], id="the plain name wins"
        ),
    ],
)
def test_ids_are_found_by_the_end_of_paths(text: str, expected: list[Any], images: Path, tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.write_text(text)
    assert read_ids(file).of_images(find_images([str(images)]).images) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "No such file", id="no file"),
        pytest.param("", "names no images", id="empty"),
        pytest.param("{", "is not valid JSON", id="half a JSON"),
        pytest.param("\x00\udcff", "neither JSON nor CSV", id="neither"),
        pytest.param("a.png\nb.JPG\n", "has 1 cells, not 2", id="names alone"),
        pytest.param('{"images": [{"file_name": "a.png"}]}', "has no id", id="COCO without ids"),
        pytest.param('{"a.png": null}', "'a.png' with the id None", id="no id"),
        pytest.param('{"a.png": true}', "'a.png' with the id True", id="a truth is no id"),
        pytest.param('{"a.png": 1.5}', "'a.png' with the id 1.5", id="half an id"),
        pytest.param('{"a.png": 9223372036854775808}', "with the id 9223372036854775808 is no", id="65 bits"),
        pytest.param('{"a.png": 9007199254740993.0}', "with the id 9007199254740992.0 is no", id="a digit is lost"),
        pytest.param('{"a.png": 12345678901234567890123}', "with the id 1.23.*e\\+22 is no", id="read as a float"),
        pytest.param('{"": 1}', "'' with the id 1", id="no name"),
        pytest.param(json.dumps({**PLAIN, "d.png": 30}), "the id 30 is that of a.png and of d.png", id="an id twice"),
        pytest.param("a.png,1\na.png,2\n", "has a.png twice", id="an image twice"),
        pytest.param(json.dumps({"a.png": 1}), "no id for .*b.JPG, .*c.tiff", id="images that are missing"),
        pytest.param(
            json.dumps({"b.JPG": 1, "c.tiff": 2, "x/a.png": 3, "y/a.png": 4}),
            "may be any of x/a.png, y/a.png",
            id="both",
        ),
        pytest.param(coco(PLAIN, {"x": 1, " x": 1}), "have the id 1", id="one id for two categories"),
    ],
)
def test_what_is_not_unique_or_not_there_is_refused(
    text: str | None, message: str, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ids"
    if text is not None:
        file.write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError, match=message) as refused:
        read_ids(file).of_images(find_images([str(images)]).images)
    assert str(refused.value).startswith(f"--image-ids {file}")


def test_two_images_with_one_id_are_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a.png,1\n")
    pictures = [Input(images / "a.png", Path("a.png")), Input(images / "copy" / "a.png", Path("a.png"))]
    with pytest.raises(UsageError, match=r"the id 1 is that of .*images/a.png and of .*copy/a.png"):
        read_ids(tmp_path / "ids").of_images(pictures)


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_results_fit_the_dataset_that_gave_the_ids(server: Server, images: Path, tmp_path: Path) -> None:
    """COCO(the user's file).loadRes(results), with its categories' ids too."""
    ids, results, dataset = tmp_path / "ids.json", tmp_path / "results.json", tmp_path / "images.json"
    numbers = {name: 100 - 3 * number for number, name in enumerate(LABELS)}
    ids.write_text(coco({**PLAIN, "unused.png": 1}, {**numbers, "a class that the model has not": 5}))
    flags = ["--format", "coco", "--image-ids", str(ids), "--output", str(results), "--coco-images", str(dataset)]
    assert main([str(images), "--url", server.url, "--score-threshold", "0.1", *flags]) == ExitCode.ANSWERED
    written = json.loads(results.read_bytes())
    expected = []
    for name, number in PLAIN.items():
        answer = server.predict((images / name).read_bytes(), score_threshold=0.1).json()
        rows = zip(answer["labels"], answer["scores"], strict=True)
        expected += [(number, numbers[label], score) for label, score in rows]
    assert [(one["image_id"], one["category_id"], one["score"]) for one in written] == expected
    for file in (ids, dataset):
        found = COCO(str(file)).loadRes(str(results))
        assert {one["image_id"] for one in found.anns.values()} <= set(PLAIN.values())


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        pytest.param('{"a.png": 1}', ["--format", "coco"], "has no id for", id="an image without id"),
        pytest.param(json.dumps(PLAIN), [], "--image-ids goes with --format coco", id="another format"),
        pytest.param(
            coco(PLAIN, {"square": 1}),
            ["--format", "coco"],
            "has categories, and none for the model's circle; it has square",
            id="a class without category",
        ),
        pytest.param(
            coco(PLAIN, {"square": 1}),
            ["--format", "coco", "--model", "stable"],
            "none for the model's circle",
            id="that of an alias",
        ),
    ],
)
def test_nothing_is_sent_where_ids_are_missing(
    text: str, flags: list[str], message: str, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids").write_text(text)
    output = tmp_path / "out"
    models = orjson.dumps(
        {
            "default": "probe",
            "models": [{"name": "probe", "labels": {"1": "circle"}}],
            "aliases": {"stable": "probe:1"},
        }
    )
    with loopback([Reply()], models=models) as server:
        arguments = ["--url", server.url, "--image-ids", str(tmp_path / "ids"), "--output", str(output), *flags]
        assert main([str(images), *arguments]) == ExitCode.WRONG_USAGE
        assert server.times == []
    assert message in capfd.readouterr().err
    assert not output.exists()


def test_a_version_with_other_labels_fails_image_by_image(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What an older version answers is known from its answers alone; a wrong id is never written."""
    (tmp_path / "ids").write_text(coco(PLAIN, {"square": 3}))
    answer = orjson.loads(NOTHING_FOUND) | {
        "boxes": [[0, 0, 1, 1]],
        "labels": ["circle"],
        "label_ids": [1],
        "scores": [0.5],
        "masks": None,
    }
    output = tmp_path / "out"
    with loopback([Reply(body=orjson.dumps(answer))]) as server:
        flags = ["--format", "coco", "--image-ids", str(tmp_path / "ids"), "--output", str(output), "--version", "1"]
        assert main([str(images), "--url", server.url, *flags]) == ExitCode.SOME_FAILED
    assert json.loads(output.read_bytes()) == []
    assert "the answer has the label 'circle', and --image-ids has no category of that name" in capfd.readouterr().err
