"""Images from an object store and results into one: moto's S3, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from service.predict_many import command
from service.predict_many.starting import Known, Loaded, load
from service.predict_many.stores import Remote, RemoteFolder
from tests.service.harness import encode, picture, until
from tests.service.holding import HOLD, PASS
from tests.service.predict_many.running import by_detection, content, predict, rows, start


@dataclass(frozen=True)
class Store:
    address: str
    log: Path

    def requests(self, method: str) -> Counter[str]:
        """How often each path was asked for by it, so far."""
        return Counter(re.findall(rf'"{method} ([^\s?]+)\S* HTTP', self.log.read_text()))

    def filesystem(self) -> fs.S3FileSystem:
        address = self.address.removeprefix("http://")
        options = {"allow_bucket_creation": True, "scheme": "http", "endpoint_override": address}
        return fs.S3FileSystem(access_key="key", secret_key="secret", region="us-east-1", **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as stream:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(words, stdout=stream, stderr=stream)
        until(lambda: "Running on http://" in log.read_text() or process.poll() is not None)
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert found is not None, log.read_text()
        yield Store(found[0], log)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def filled(store: Store, images: Path) -> str:
    """A prefix of a bucket with the images in it."""
    there = store.filesystem()
    there.create_dir("bucket")
    for file in (file for file in images.rglob("*") if file.is_file()):
        with there.open_output_stream(f"bucket/a folder/images/{file.relative_to(images)}") as stream:
            stream.write(file.read_bytes())
    return "s3://bucket/a folder"


@pytest.fixture
def bucket(filled: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """For a process that finds the store and its credentials in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return filled


def test_results_are_those_of_the_folder(
    bucket: str, store: Store, repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the images' names, and for the link to nowhere, which is not there."""
    here, there = tmp_path / "here", f"{bucket}/found"
    assert predict(repository, images, "--output", here, "--shard-size", 7) == 1
    assert predict(repository, f"{bucket}/images", "--output", there, "--shard-size", 7) == 1
    said = capsys.readouterr().err
    assert "39 images, 3 failed" in said
    assert said.count("1 file passed over, no images by their endings: .txt (1)") == 2
    with store.filesystem().open_input_file("bucket/a folder/found/detections.parquet") as stream:
        found = by_detection(parquet.read_table(stream).to_pylist(), f"{bucket}/images/")
    expected = by_detection(rows(here / "detections.parquet"), f"{images}/")
    assert {name for name, _ in expected.keys() - found.keys()} == {"zz.png"}
    assert found.items() <= expected.items()

    paths = [f"/bucket/a%20folder/found/_parts/part-{number:06}.parquet" for number in range(6)]
    written = store.requests("PUT")
    assert [written[path] for path in paths] == [1] * 6, "one PUT each"
    assert predict(repository, f"{bucket}/images", "--output", there) == 1
    assert "39 of 39 images are there already" in capsys.readouterr().err
    again = store.requests("PUT")
    assert [again[path] for path in paths] == [1] * 6
    assert predict(repository, f"{bucket}/images", "--output", there, "--quiet", "--masks=none") == 2
    assert "s3://bucket/a folder/found holds another run, which differs in masks (rle then, none" in (
        capsys.readouterr().err
    )


def test_killed_while_it_writes_into_a_bucket(
    bucket: str, store: Store, repository: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`python -m tests.resilience.kills_many` does so with 2,000 images and another store."""
    held, holding, there = tmp_path / "held", tmp_path_factory.mktemp("holding"), store.filesystem()
    held.mkdir()
    for seed in range(12):
        (held / f"{seed:02}.png").write_bytes(encode(picture(seed, held=True)))
    (held / "07.png").write_bytes(b"broken")

    def objects(folder: str) -> dict[str, str]:
        selector = fs.FileSelector(f"bucket/a folder/killed{folder}", recursive=True, allow_not_found=True)
        found = (info for info in there.get_file_info(selector) if info.type == fs.FileType.File)
        return {info.path.removeprefix("bucket/a folder/killed/"): info.path for info in found}

    def some_are_there() -> bool:
        (holding / PASS).touch()
        return len(objects("/_parts")) >= 2

    words = (held, "--output", f"{bucket}/killed", "--shard-size", 2)
    (holding / HOLD).touch()
    process = start(repository, *words, holding=holding)
    until(some_are_there)
    process.kill()
    process.communicate()
    kept = objects("/_parts")
    assert 2 <= len(kept) < 6
    assert predict(repository, *words) == 1
    written = store.requests("PUT")
    assert [written["/" + path.replace(" ", "%20")] for path in kept.values()] == [1] * len(kept)
    assert predict(repository, held, "--output", tmp_path / "whole", "--shard-size", 2) == 1
    assert {name: there.open_input_file(path).readall() for name, path in objects("").items()} == content(
        tmp_path / "whole"
    )


def test_a_list_in_the_store_names_images_there(
    bucket: str, store: Store, repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {
        "list.txt": "01.png\nimages/02.png\nnothing.png\n",
        "lists/list.csv": "path\n../images/01.png\n",
        "far.txt": "../../x.png\n",
    }
    for name, text in lists.items():
        with store.filesystem().open_output_stream(f"bucket/a folder/{name}") as stream:
            stream.write(text.encode())
    flags = ["--rows=images", "--output"]
    assert predict(repository, f"{bucket}/list.txt", f"--images={bucket}/images", *flags, tmp_path / "one") == 1
    good, missing, gone = rows(tmp_path / "one" / "images.parquet")
    assert (good["image"], good["error"]) == ("01.png", None)
    assert missing["error"] == gone["error"] == "unreadable-file"
    assert gone["detail"] == "The file cannot be read: no such object."
    assert predict(repository, f"{bucket}/lists/list.csv", *flags, tmp_path / "two") == 0
    (same,) = rows(tmp_path / "two" / "images.parquet")
    assert same["boxes"] == good["boxes"]
    assert predict(repository, f"{bucket}/far.txt", *flags, tmp_path / "three") == 2
    assert "../../x.png leads out of the bucket bucket, from s3://bucket/a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["s3://bucket/nothing", "--output={tmp}/out"], "there is no such prefix or object", id="prefix"),
        pytest.param(["s3://no-bucket/x", "--output={tmp}/out"], "there is no such prefix or object", id="bucket"),
        pytest.param(["s3://bucket/x.txt", "--output={tmp}/out"], "there is no such file", id="list"),
        pytest.param(["{images}", "--output=s3://no-bucket/x"], "--output: s3://no-bucket/x/_plan.json: ", id="output"),
    ],
)
def test_what_a_store_has_not_is_one_line(
    arguments: list[str],
    said: str,
    bucket: str,
    repository: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": tmp_path, "images": images}
    assert predict(repository, "--quiet", *(word.format(**places) for word in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "Request ID" not in line


def test_odd_keys_are_found_again_by_what_results_call_them(
    bucket: str, store: Store, repository: Path, tmp_path: Path
) -> None:
    """A list of the images of a table names the same objects, and no others."""
    names = ["what", "what?.png", "what?.png.png", "a b.png", "a+b%20c.png", "#1.png", "\u00e4\u03bb.png", "y=5/6.png"]
    for number, name in enumerate(names):
        with store.filesystem().open_output_stream(f"bucket/odd/{name}") as stream:
            stream.write(encode(picture(number)))
    flags = ["--rows=images", "--output"]
    assert predict(repository, "s3://bucket/odd", *flags, tmp_path / "one") == 0
    found = {row["image"]: row["scores"] for row in rows(tmp_path / "one" / "images.parquet")}
    assert set(found) == {f"s3://bucket/odd/{name}" for name in names[1:]}
    assert len({str(scores) for scores in found.values()}) == len(found), "each of an image of its own"
    (tmp_path / "list.txt").write_text("\n".join(found))
    assert predict(repository, tmp_path / "list.txt", *flags, tmp_path / "two") == 0
    assert {row["image"]: row["scores"] for row in rows(tmp_path / "two" / "images.parquet")} == found


def test_a_run_that_began_while_the_model_was_loaded_is_noticed(
    bucket: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing keeps two processes out of one prefix."""
    words = (f"{bucket}/images", "--output", f"{bucket}/raced", "--quiet")

    def meanwhile(*of_this_one: Any) -> tuple[Loaded, Known]:
        monkeypatch.setattr(command, "load", load)
        assert predict(repository, *words, "--masks=none") == 1
        return load(*of_this_one)

    monkeypatch.setattr(command, "load", meanwhile)
    assert predict(repository, *words) == 2
    assert "raced holds another run, which differs in masks (none then, rle now)" in capsys.readouterr().err


def test_what_ends_early_is_at_no_moment_taken_for_whole(tmp_path: Path) -> None:
    """An object is there once its stream is closed, whatever it holds then; a link keeps what is removed after that."""
    folder = RemoteFolder(Remote(fs.LocalFileSystem(), str(tmp_path), "file://"))
    table = pa.table({"a": [1, 2]})
    for name in ("found.parquet", "found.json"):
        with pytest.raises(KeyboardInterrupt), folder.writing(name) as stream:  # noqa: PT012  # where it comes from
            if name.endswith(".json"):
                stream.write(b'[{"a": 1}]')
            else:
                parquet.write_table(table, pa.PythonFile(stream, mode="w"))
            os.link(tmp_path / name, tmp_path / f"link-{name}")
            raise KeyboardInterrupt
        assert not (tmp_path / name).exists()
    with pytest.raises(pa.ArrowInvalid):
        parquet.read_table(tmp_path / "link-found.parquet")
    with pytest.raises(ValueError, match="Extra data"):
        json.loads((tmp_path / "link-found.json").read_bytes())


class Refusal(BaseHTTPRequestHandler):
    """A store to which the credentials are nothing."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_store_that_refuses_ends_the_run_and_the_images_keep_their_chance(
    bucket: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("s3://bucket/a folder/images/01.png\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as refusing:
        threading.Thread(target=refusing.serve_forever).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
        assert predict(repository, tmp_path / "list.txt", "--output", tmp_path / "out", "--quiet") == 3
        refusing.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("maskserve: s3://bucket/a folder/images/01.png: ")
    assert ". Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " in line
    assert line.endswith("; the same command goes on from what is finished")
    assert not list((tmp_path / "out").glob("_parts/*"))
