"""`maskserve predict-many` on a folder: the service's answers, as rows; and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from service.predict_many.__main__ import main
from tests.service.harness import LABELS, Server, encode, picture, publish_probe
from tests.service.predict_many.running import content, predict, rows


@pytest.fixture(scope="module")
def found(repository: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over all images, a row for each detection."""
    folder = tmp_path_factory.mktemp("found") / "all"
    assert predict(repository, images, "--output", folder, "--shard-size", 7) == 1
    return folder


def require_same(row: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """A row of an image and the server's answer about it, to the digit."""
    if "detail" in answer:
        assert (f"urn:maskserve:problem:{row['error']}", row["detail"]) == (answer["type"], answer["detail"])
        assert all(row[column] is None for column in ("width", "boxes", "scores", "masks", "truncated"))
        return
    assert (row["error"], row["detail"]) == (None, None)
    assert json.loads(row["seen"]) == answer["image"]
    assert (row["height"], row["width"]) == (answer["image"]["height"], answer["image"]["width"])
    for column in ("labels", "label_ids", "truncated"):
        assert row[column] == answer[column]
    for column in ("boxes", "scores"):  # JSON has the fewest digits that read back as the same float32
        assert np.array_equal(np.float32(row[column]), np.float32(answer[column]))
    assert row["masks"] == answer.get("masks")


def flags(parameters: Mapping[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="the model's defaults"),
        pytest.param({"score_threshold": 0.1, "max_detections": 2}, id="a limit that cuts off"),
        pytest.param({"masks": "none", "labels": LABELS[0], "intensity": "min-max"}, id="one label, without masks"),
    ],
)
def test_rows_are_the_service_s_answers(
    parameters: dict[str, Any], repository: Path, images: Path, server: Server, tmp_path: Path
) -> None:
    assert predict(repository, images, "--output", tmp_path, "--rows=images", *flags(parameters)) == 1
    by_name = {row["image"]: row for row in rows(tmp_path / "images.parquet")}
    for file in sorted(file for file in images.rglob("[!.]*.png") if file.exists()):
        require_same(by_name.pop(str(file)), server.predict(file.read_bytes(), **parameters).json())
    (left,) = by_name.values()  # the link to nowhere, which cannot be sent
    reason = "The file cannot be read: no such file or directory."
    assert (left["error"], left["detail"]) == ("unreadable-file", reason)


def test_a_plane_of_a_deep_stack_in_tiles_is_the_service_s_answer(
    repository: Path, server: Server, tmp_path: Path
) -> None:
    """Dark, for a bright corner of a tile would make the probe slow."""
    file = tmp_path / "images" / "stack.tif"
    file.parent.mkdir()
    tifffile.imwrite(
        file, np.random.default_rng(0).integers(0, 300, (2, 150, 190), np.uint16), photometric="minisblack"
    )
    parameters = {"page": 1, "high": 4095, "tile": 100, "overlap": 20, "scale": 1.1}
    assert predict(repository, file.parent, "--output", tmp_path, "--rows=images", *flags(parameters)) == 0
    (row,) = rows(tmp_path / "images.parquet")
    answer = server.predict(file.read_bytes(), "image/tiff", **parameters).json()
    assert answer["image"]["tiles"] > 4
    assert answer["image"]["plane"]["page"]["index"] == 1
    require_same(row, answer)


def test_a_row_is_a_detection_and_images_without_any_have_one(found: Path, repository: Path, images: Path) -> None:
    assert predict(repository, images, "--output", found, "--rows", "images") == 1  # of the same parts
    detections, per_image = rows(found / "detections.parquet"), rows(found / "images.parquet")
    expected: list[dict[str, Any]] = []
    for row in per_image:
        own = {name: row[name] for name in ("image", "image_id", "width", "height", "truncated", "error", "detail")}
        lists = zip(
            row["boxes"] or (),
            row["labels"] or (),
            row["label_ids"] or (),
            row["scores"] or (),
            row["masks"] or (),
            strict=True,
        )
        several = [
            {"detection": number, "box": box, "label": label, "label_id": label_id, "score": score, "mask": mask}
            for number, (box, label, label_id, score, mask) in enumerate(lists)
        ]
        nothing = dict.fromkeys(("detection", "box", "label", "label_id", "score", "mask"))
        expected += [{**own, **one, "keypoints": None} for one in several or [nothing]]
    assert detections == expected
    assert [row["image_id"] for row in per_image] == list(range(1, 41))
    assert sum(row["error"] is not None for row in detections) == 4


def test_the_parts_hold_each_image_once_in_order(found: Path) -> None:
    parts = sorted((found / "_parts").iterdir())
    assert [file.name for file in parts] == [f"part-{number:06}.parquet" for number in range(6)]
    assert [len(rows(file)) for file in parts] == [7, 7, 7, 7, 7, 5]
    names = [row["image"] for file in parts for row in rows(file)]
    assert len(set(names)) == 40


def test_a_finished_run_computes_nothing_again(
    found: Path, repository: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (found / "_parts").iterdir()}
    assert predict(repository, images, "--output", found) == 1
    assert {file: file.stat().st_mtime_ns for file in (found / "_parts").iterdir()} == before
    said = capsys.readouterr().err
    assert "40 of 40 images are there already" in said
    assert (
        f"40 images, 4 failed, {sum(row['score'] is not None for row in rows(found / 'detections.parquet'))} detections"
        in said
    )


@pytest.mark.parametrize(
    ("flags", "differing"),
    [
        pytest.param(["--score-threshold", "0.6"], "score_threshold (the model's then, 0.6 now)", id="an option"),
        pytest.param(["--tile=off", "--masks=none"], "masks (rle then, none now); tile (auto then, off now)", id="two"),
        pytest.param(["--max-pixels", "99"], "max_pixels (64000000 then, 99 now)", id="a limit"),
        pytest.param(["--shard-size", "8"], "shard_size (7 then, 8 now)", id="the shards"),
    ],
)
def test_another_run_into_the_same_folder_is_refused(
    flags: list[str],
    differing: str,
    found: Path,
    repository: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(found)
    assert predict(repository, images, "--output", found, "--quiet", *flags) == 2
    assert capsys.readouterr().err == (
        f"maskserve: {found} holds another run, which differs in {differing}: give another --output, or the command "
        f"that began it\n"
    )
    assert content(found) == before


def test_another_list_and_another_model_are_refused(
    found: Path, repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(repository, images / "below", "--output", found, "--quiet") == 2
    assert "differs in the list of images (40 then, 12 now):" in capsys.readouterr().err
    copies = shutil.copytree(images, tmp_path / "copies", symlinks=True)
    assert predict(repository, copies, "--output", found, "--quiet") == 2
    assert "differs in the list of images (others, or in another order):" in capsys.readouterr().err
    models = shutil.copytree(repository, tmp_path / "models")
    publish_probe(tmp_path / "staging", models, score_thresholds={LABELS[0]: 0.7})
    assert predict(models, images, "--output", found, "--quiet") == 2
    assert "differs in the model (probe/1 then, probe/2 now):" in capsys.readouterr().err
    assert predict(models, images, "--output", found, "--quiet", "--version", 1) == 1
    shutil.rmtree(models / "probe" / "1")
    (models / "probe" / "2").rename(models / "probe" / "1")
    manifest = models / "probe" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 1'))
    assert predict(models, images, "--output", found, "--quiet") == 2
    assert "differs in the files of the model probe/1:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["{tmp}/nothing", "--output={tmp}/out"], "{tmp}/nothing: no such file or folder", id="no source"),
        pytest.param(["{tmp}/*.png", "--output={tmp}/out"], "{tmp}/*.png: nothing matches this pattern", id="pattern"),
        pytest.param(["{tmp}", "--output={tmp}/out"], "{tmp}: no images in there (files that end in ", id="empty"),
        pytest.param(["{images}", "--output={images}/notes.txt"], "--output: {images}/notes.txt is a file", id="file"),
        pytest.param(["{images}", "--output=/proc/x"], "--output: /proc/x cannot be written: ", id="unwritable"),
        pytest.param(
            ["{images}", "--output=s4://b/x"],
            "s4://b/x: s4:// is not known here; choose s3://, gs://, file://",
            id="scheme",
        ),
        pytest.param(
            ["http://x/a.png", "--output={tmp}/out"],
            "http://x/a.png: http:// is not known here; choose s3://",
            id="web",
        ),
        pytest.param(
            ["s3://", "--output={tmp}/out"], "s3://: no bucket is named; give s3://BUCKET/PREFIX", id="bucket"
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--labels=cirle"], "labels: probe has no label 'cirle'", id="label"
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--score_threshold=2"],
            "--score-threshold 2: should be less than or equal to 1",
            id="parameter",
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--channel=0", "--channels=1"],
            "channels: ",
            id="parameters that contradict each other",
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--engine-threads=no"], "--engine-threads no: ", id="a setting"
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--version=7"], "--version: {models} has no probe/7;", id="version"
        ),
        pytest.param(
            ["{images}", "--output={tmp}/out", "--model=prob"],
            "--model: {models} has no prob; it has probe",
            id="model",
        ),
        pytest.param(
            ["{images}/notes.txt", "{images}", "--output={tmp}/out"],
            "{images}/notes.txt is a list of images: give it alone",
            id="a list and more",
        ),
        pytest.param(
            ["{images}", "--images={tmp}", "--output={tmp}/out"],
            "--images is where the names of a list begin, and no list is given: leave it out",
            id="a root without a list",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str],
    said: str,
    repository: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": tmp_path, "images": images, "models": repository}
    assert predict(repository, "--quiet", *(word.format(**places) for word in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("maskserve: " + said.format(**places))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_misspelled_flag_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["images", "--output", "out", "--score-treshold", "0.5"])
    assert ended.value.code == 2
    assert "did you mean --score-threshold?" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(
    repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "detections.parquet").write_bytes(b"somebody's")
    assert predict(repository, images, "--output", tmp_path, "--quiet") == 2
    assert "has detections.parquet, and no _plan.json that says of what" in capsys.readouterr().err
    assert content(tmp_path) == {"detections.parquet": b"somebody's"}


def test_a_damaged_part_is_one_line(repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(encode(picture(seed)))
    words = (tmp_path, "--output", tmp_path / "out", "--shard-size", 1, "--quiet")
    assert predict(repository, *words) == 0
    (tmp_path / "out" / "_parts" / "part-000001.parquet").write_bytes(b"PAR1")
    whole = (tmp_path / "out" / "detections.parquet").read_bytes()
    assert predict(repository, *words) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert "part-000001.parquet is damaged (" in line
    assert (tmp_path / "out" / "detections.parquet").read_bytes() == whole


def test_a_part_of_another_run_is_not_merged(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs that begin at once in a bucket, or in a folder without locks, may both write there."""
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(encode(picture(seed)))
    words = (f"{tmp_path}/*.png", "--shard-size", 1, "--quiet", "--output")
    assert predict(repository, *words, tmp_path / "one") == 0
    assert predict(repository, *words, tmp_path / "other", "--score-threshold", 0.9) == 0
    before = (tmp_path / "one" / "detections.parquet").read_bytes()
    shutil.copy(tmp_path / "other" / "_parts" / "part-000001.parquet", tmp_path / "one" / "_parts")
    assert predict(repository, *words, tmp_path / "one") == 3
    assert "part-000001.parquet is of another run, which wrote into this folder too: delete" in capsys.readouterr().err
    assert (tmp_path / "one" / "detections.parquet").read_bytes() == before
    (tmp_path / "one" / "_parts" / "part-000001.parquet").unlink()
    assert predict(repository, *words, tmp_path / "one") == 0
    assert (tmp_path / "one" / "detections.parquet").read_bytes() == before


def test_results_in_the_source_s_folder_are_not_taken_for_images(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(encode(picture(1)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_bytes(encode(picture(2)))
    assert predict(repository, tmp_path, "--output", tmp_path / "out") == 0
    assert {row["image"] for row in rows(tmp_path / "out" / "detections.parquet")} == {str(tmp_path / "a.png")}
    assert f"1 image in {tmp_path}/out left out, where results go: " in capsys.readouterr().err


def test_an_image_on_which_the_engine_fails_is_a_row(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(picture(1)))
    (tmp_path / "b.png").write_bytes(encode(picture(2, fail=True)))
    assert predict(repository, tmp_path, "--output", tmp_path / "out", "--rows", "images") == 1
    good, bad = rows(tmp_path / "out" / "images.parquet")
    assert good["error"] is None
    assert bad["error"] == "internal-error"
    assert "\n" not in bad["detail"]


def test_an_engine_that_fails_on_everything_stops_the_run(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(20):
        (tmp_path / "images" / f"{seed:02}.png").write_bytes(encode(picture(seed, fail=seed > 2)))
    assert predict(repository, tmp_path / "images", "--output", tmp_path / "out", "--shard-size", 3) == 3
    assert "the engine failed on 16 images in a row, last on" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out" / "_parts").iterdir()] == ["part-000000.parquet"]


def test_ray_that_is_not_installed_is_named(
    repository: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "service.predict_many.cluster", raising=False)
    assert predict(repository, images, "--output", tmp_path / "found", "--ray") == 2
    said = "maskserve: --ray needs ray, which is not installed: .venv/bin/pip install '.[ray]'\n"
    assert capsys.readouterr().err.endswith(said)
