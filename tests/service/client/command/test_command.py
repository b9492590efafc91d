"""`python -m service.client`: what goes in, what comes out, and with which exit code."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from service.client.command.main import ExitCode, main
from tests.patience import PATIENCE
from tests.service.client.loopback import Reply, loopback
from tests.service.client.shell import command, lines, without
from tests.service.harness import LABELS, ROOT, Server, encode, picture
from tests.service.routes.test_planes import stack

KEY = "0123456789abcdef0123"
Names = list[str]


def test_of_200_images_with_5_damaged_195_are_answered_and_5_are_named(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.png").write_bytes(encode(picture(number)))
    good = encode(picture(0))
    damaged = {
        "007.png": (good[: len(good) // 2], "The image is damaged or truncated"),
        "050.png": (b"", "The upload is not an image"),
        "051.png": (b"hello", "The upload is not an image"),
        "120.png": (b"\0\0\1\0" + bytes(100), "This image format is not accepted"),
        "199.png": (good + bytes(200_000), "The upload has too many bytes"),
    }
    for name, (data, _) in damaged.items():
        (folder / name).write_bytes(data)

    running = command(folder, "--url", server.url, "--jobs", "8")
    out, errors = running.communicate(timeout=PATIENCE)

    assert running.returncode == ExitCode.SOME_FAILED
    results = [json.loads(line) for line in out.splitlines()]
    names = [f"{number:03}.png" for number in range(200)]
    assert [result["file"] for result in results] == [str(folder / name) for name in names]  # in the input's order
    answered = {name: result for name, result in zip(names, results, strict=True) if "problem" not in result}
    assert len(answered) == 195
    for name, result in answered.items():
        expected = server.predict((folder / name).read_bytes()).json()
        assert list(result) == ["file", *expected]
        assert without(result, "file", "timing_ms") == without(expected, "timing_ms")
    assert {name for name in names if name not in answered} == set(damaged)
    *named, summary = errors.decode().splitlines()
    assert len(named) == 5
    for line, (name, (data, title)) in zip(named, sorted(damaged.items()), strict=True):
        assert line.startswith(f"{folder / name}: {title}: ")
        assert results[names.index(name)]["problem"] == server.predict(data).json()
    assert summary == "maskserve: 195 of 200 images answered, 5 failed"


def test_a_lines_answer_is_the_servers_to_the_byte(images: Path, tmp_path: Path) -> None:
    answer = b'{"scores":[1e-05,0.10000000149011612],"labels":["\\u00e4"]}'
    with loopback([Reply(body=answer)]) as server:
        assert main([str(images / "a.png"), "--url", server.url, "--output", str(tmp_path / "out")]) == 0
    file = json.dumps(str(images / "a.png")).encode()
    assert (tmp_path / "out").read_bytes() == b'{"file":' + file + b"," + answer[1:] + b"\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["."], ["a.png", "b.JPG", "more/c.tiff"], id="a folder, with those below"),
        pytest.param(["b.JPG", "a.png", "b.JPG"], ["b.JPG", "a.png"], id="files in their order, each once"),
        pytest.param(["*.[pJ]*"], ["a.png", "b.JPG"], id="a pattern"),
        pytest.param(["**/*.tiff"], ["more/c.tiff"], id="a pattern through the folders"),
        pytest.param(["mor?"], ["more/c.tiff"], id="a pattern that matches a folder"),
        pytest.param(["more", "."], ["more/c.tiff", "a.png", "b.JPG"], id="a folder and what is around it"),
    ],
)
def test_files_folders_and_patterns(
    server: Server,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Names,
    expected: Names,
) -> None:
    monkeypatch.chdir(images)
    monkeypatch.setenv("MASKSERVE_CLIENT_URL", server.url)
    output = tmp_path / "out.jsonl"
    assert main([*arguments, "--output", str(output)]) == ExitCode.ANSWERED
    assert [line["file"] for line in lines(output)] == expected


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param(b"image [1]*.dat", "image [1]*.dat", id="the signs of a pattern, and another ending"),
        pytest.param(b"a\xff.png", "a\ufffd.png", id="no UTF-8"),
        pytest.param('ä, "b".png'.encode(), 'ä, "b".png', id="what CSV and JSON quote"),
    ],
)
def test_a_file_may_have_any_name(server: Server, tmp_path: Path, name: bytes, shown: str) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(encode(picture()))
    for form in ("jsonl", "csv"):
        arguments = ["--url", server.url, "--output", str(tmp_path / form), "--format", form]
        assert main([str(file), *arguments]) == ExitCode.ANSWERED
    assert lines(tmp_path / "jsonl")[0]["file"] == str(tmp_path / shown)
    with (tmp_path / "csv").open(newline="", encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["file"] == str(tmp_path / shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png: no such file or folder"),
        (["*.bmp"], "*.bmp: nothing matches this pattern"),
        (["a.png", "empty"], "empty: no images in there"),
        (["a.png", "--coco-images", "x"], "--coco-images goes with --format coco"),
        (["a.png", "--format", "imagej"], "--format imagej writes a file for each image: name a folder for them"),
        (
            ["more/c.tiff", "--format", "geojson", "--output", "a.png"],
            "--output: a.png is a file",
        ),
        (["a.png", "--format", "labels", "--output", "new", "--masks", "none"], "a label image is made of masks"),
        (["a.png", "--pixel-size-um", "0"], "pixel_size_um: "),
        (["a.png", "--format", "labels", "--output", "/proc/x"], "--output: /proc/x cannot be written: "),
        (["a.png", "--overlay", "."], "--overlay . would overwrite a.png, which is read"),
        ([".", "--overlay", "."], "--overlay . would overwrite a.png, which is read"),
        (["a.png", "--output", "a.png"], "--output would overwrite a.png, which is read"),
        (["a.png", "--output", "more/../a.png"], "--output would overwrite a.png, which is read"),
        ([".", "--output", "more/c.tiff"], "--output would overwrite more/c.tiff, which is read"),
        (["a.png", "--output", "link.png"], "--output would overwrite a.png, which is read"),
        (["a.png", "--format=coco", "--coco-images", "a.png"], "--coco-images would overwrite a.png, which is read"),
        (["a.png", "--format=coco", "--image-ids=ids", "--output=ids"], "--output would overwrite ids, which is read"),
        (["a.png", "--format=coco", "--output=x", "--coco-images=x"], "--coco-images and --output are one file, x"),
        (["a.png", "--overlay=new", "--output=new/a.png"], "the results cannot be written: new/a.png: No such file"),
        (["a.png", "--overlay=more", "--output=more/a.png"], "--overlay more and --output are one file, more/a.png"),
        (["a.png", "--overlay", "/proc/x"], "--overlay: /proc/x cannot be written: "),
        (["a.png", "--overlay", "b.JPG"], "--overlay: b.JPG is a file"),
        (["a.png", "--output", "more"], "--output: more is a folder"),
        (["a.png", "--url", "localhost"], "url 'localhost'"),
        (["a.png", "--api-key", "ключ"], "the API key is empty or has a character"),
        (["a.png", "--output", "missing/out"], "the results cannot be written: missing/out: No such file"),
        (["a.png", "--labels", "triangle"], "labels: probe has no label 'triangle'; it knows 'circle'"),
        (["a.png", "--score-threshold", "2"], "score_threshold: "),
        (["a.png", "--model", "nothing"], "There is no model nothing"),
        (["a.png", "--model", "prob"], "There is no model prob; this server has probe/1. Did you mean probe?"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    server: Server,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: Names,
    message: str,
) -> None:
    monkeypatch.chdir(images)
    (images / "empty").mkdir()
    (images / "link.png").symlink_to("a.png")
    (images / "ids").write_text("a.png,7")
    before = {file: file.read_bytes() for file in images.rglob("*") if file.is_file()}
    assert main(["--url", server.url, "--quiet", *arguments]) == ExitCode.WRONG_USAGE
    out, errors = capfd.readouterr()
    assert out == ""
    assert errors.startswith("maskserve: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert {file: file.read_bytes() for file in images.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--bogus"], "there is no flag --bogus"),
        ([], "the following arguments are required: IMAGE"),
        ([""], "an empty word"),
        (["a.png", "--overlay", ""], "an empty word"),
        (["a.png", "--output="], "an empty word"),
        (["a.png", "--jobs", "0"], "0 is too few; give 1 or more"),
        (["a.png", "--retries", "-1"], "-1 is too few; give 0 or more"),
        (["a.png", "--timeout", "nan"], "give more than 0"),
        (["a.png", "--timeout", "-1"], "give more than 0"),
        (["a.png", "--timeout", "inf"], "give more than 0"),
        (["a.png", "--tile", "of"], "'of' is no side of a tile; give auto, off, or pixels from 100 to 9999"),
        (["a.png", "--tile", "99"], "give auto, off, or pixels from 100 to 9999"),
    ],
)
def test_a_wrong_flag_is_one_line_and_ends_with_2(
    arguments: Names, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == ExitCode.WRONG_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_coco_results_are_read_by_pycocotools(server: Server, images: Path, tmp_path: Path) -> None:
    (images / "aa-damaged.png").write_bytes(b"")
    results, dataset = tmp_path / "results.json", tmp_path / "images.json"
    arguments = ["--format", "coco", "--output", str(results), "--coco-images", str(dataset)]
    assert main([str(images), "--url", server.url, "--score-threshold", "0.1", *arguments]) == ExitCode.SOME_FAILED
    truth = COCO(str(dataset))
    found = truth.loadRes(str(results))
    names = ["a.png", "aa-damaged.png", "b.JPG", "more/c.tiff"]
    assert {number: entry["file_name"] for number, entry in truth.imgs.items()} == {
        number: str(images / name) for number, name in enumerate(names, 1)
    }
    assert [category["name"] for category in truth.loadCats(truth.getCatIds())] == list(LABELS)
    for number, name in enumerate(names, 1):
        if name == "aa-damaged.png":
            assert found.getAnnIds([number]) == []
            continue
        answer = server.predict((images / name).read_bytes(), score_threshold=0.1).json()
        annotations = found.loadAnns(found.getAnnIds([number]))
        assert [one["score"] for one in annotations] == answer["scores"]
        assert [one["category_id"] for one in annotations] == answer["label_ids"]
        for one, mask in zip(annotations, answer["masks"], strict=True):
            assert np.array_equal(found.annToMask(one), coco.decode(mask))


def test_without_detections_coco_and_csv_are_empty_and_valid(server: Server, images: Path, tmp_path: Path) -> None:
    for form in ("coco", "csv"):
        arguments = ["--format", form, "--output", str(tmp_path / form), "--score-threshold", "1"]
        assert main([str(images), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    assert json.loads((tmp_path / "coco").read_bytes()) == []
    assert len((tmp_path / "csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("masks", ["rle", "none"])
def test_csv_has_a_row_for_each_detection(server: Server, images: Path, tmp_path: Path, masks: str) -> None:
    output = tmp_path / "out.csv"
    arguments = ["--format", "csv", "--output", str(output), "--score-threshold", "0.1", "--masks", masks]
    assert main([str(images), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected: list[dict[str, str]] = []
    for name in ("a.png", "b.JPG", "more/c.tiff"):
        data = (images / name).read_bytes()
        answer = server.predict(data, score_threshold=0.1).json()
        entries = server.predict(data, score_threshold=0.1, format="coco", masks="rle_uncompressed").json()
        for label, label_id, score, box, entry in zip(
            *(answer[column] for column in ("labels", "label_ids", "scores", "boxes")), entries, strict=True
        ):
            box_area = round((box[2] - box[0]) * (box[3] - box[1]), 3)
            area = sum(entry["segmentation"]["counts"][1::2]) if masks == "rle" else box_area
            values = [images / name, *answer["image"].values(), label, label_id, score, *box, area]
            names = ["file", "width", "height", "label", "label_id", "score", "x1", "y1", "x2", "y2", "area"]
            expected.append(dict(zip(names, map(str, values), strict=True)))
    assert len(rows) == 18
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected
    assert list(rows[0])[: len(names)] == names


def test_one_table_holds_what_the_server_measures_of_gray_and_colored_images(server: Server, tmp_path: Path) -> None:
    gray, colored = encode(picture(1)[..., 0]), encode(picture(2))
    (tmp_path / "a.png").write_bytes(gray)
    (tmp_path / "b.png").write_bytes(colored)
    output = tmp_path / "out.csv"
    arguments = ["--format", "csv", "--output", str(output), "--pixel-size-um", "0.5"]
    assert main([str(tmp_path), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = []
    for name, data in (("a.png", gray), ("b.png", colored)):
        table = server.predict(data, format="csv", pixel_size_um=0.5).text
        expected += [{"file": str(tmp_path / name), **row} for row in csv.DictReader(StringIO(table, newline=""))]
    assert [row["file"] for row in rows] == [row["file"] for row in expected]
    assert all(row == {**dict.fromkeys(row, ""), **wanted} for row, wanted in zip(rows, expected, strict=True))
    assert rows[0]["intensity_mean_1"] == ""
    assert float(rows[0]["area_um2"]) == int(rows[0]["area"]) / 4
    assert list(rows[-1]) == list(expected[-1])


def test_a_table_with_columns_that_the_client_does_not_know_is_that_image_s_error(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = b"width,height,label,moment\n8,4,circle,1\n"
    with loopback([Reply(body=table, headers={"Content-Type": "text/csv; charset=utf-8"})]) as server:
        arguments = ["--url", server.url, "--format", "csv", "--output", str(tmp_path / "out.csv")]
        assert main([str(images / "a.png"), *arguments]) == ExitCode.SOME_FAILED
    assert "has no columns moment" in capfd.readouterr().err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1


def test_large_pictures_are_cut_as_the_flags_say(server: Server, tmp_path: Path) -> None:
    Image.fromarray(picture(2, (150, 260))).save(tmp_path / "large.png")
    output = tmp_path / "answers.jsonl"
    arguments = [str(tmp_path / "large.png"), "--url", server.url, "--output", str(output)]
    assert main([*arguments, "--tile", "100", "--overlap", "25", "--scale", "0.9"]) == 0
    (answer,) = map(json.loads, output.read_text().splitlines())
    asked = server.predict((tmp_path / "large.png").read_bytes(), tile=100, overlap=25, scale=0.9).json()
    assert answer["image"] == asked["image"]
    assert (answer["image"]["scale"], answer["image"]["tiles"] > 1) == (0.9, True)
    assert answer["scores"] == asked["scores"]


def on_terminal(*flags: str | Path) -> tuple[int, bytes]:
    """The command's exit code, and what it shows on a terminal."""
    controller, terminal = pty.openpty()
    arguments = [sys.executable, "-m", "service.client", *map(str, flags)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=terminal) as running:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(controller, 4096):
                shown += chunk
        except OSError:  # the terminal is gone with the process
            pass
    os.close(controller)
    return running.returncode, shown


def test_a_picture_in_tiles_and_a_stack_have_their_own_bars_and_the_same_results(
    server: Server, tmp_path: Path
) -> None:
    large, several = tmp_path / "[b]large.png", tmp_path / "stack.tif"
    large.write_bytes(encode(picture(5, (300, 200))))
    several.write_bytes(stack())
    tiled: list[str | Path] = ["--url", server.url, "--tile", "100", "--overlap", "10"]
    cases: list[tuple[list[str | Path], str]] = [
        ([large], f"tiles of {large}"),
        ([large, "--format", "coco"], f"tiles of {large}"),
        ([several, "--planes", "all"], f"planes of {several}"),
    ]
    for arguments, told in cases:
        outputs = [tmp_path / "watched", tmp_path / "plain"]
        code, shown = on_terminal(*arguments, *tiled, "--output", outputs[0])
        assert code == ExitCode.ANSWERED
        assert told.encode() in shown
        assert main([*map(str, [*arguments, *tiled]), "--output", str(outputs[1])]) == ExitCode.ANSWERED
        watched, plain = (re.sub(rb'"timing_ms":{[^}]*}', b"", output.read_bytes()) for output in outputs)
        assert watched == plain


def test_a_terminal_gets_a_progress_bar_and_nothing_else_does(server: Server, images: Path) -> None:
    (images / "d.png").write_bytes(b"")
    code, shown = on_terminal(images, "--url", server.url)
    assert code == ExitCode.SOME_FAILED
    assert b"4/4" in shown
    assert b"1 failed" in shown
    assert f"{images / 'd.png'}: The upload is not an image".encode() in shown
    plain = command(images, "--url", server.url)
    assert b"4/4" not in plain.communicate(timeout=PATIENCE)[1]


def test_the_manual_shows_no_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MASKSERVE_CLIENT_KEY", KEY)
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    manual = capsys.readouterr().out
    assert KEY not in manual
    assert "exit codes:" in manual
