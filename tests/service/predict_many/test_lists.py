"""Lists of images: what they may look like, and where their names begin."""

from __future__ import annotations

import json
import os
import resource
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from service.client.command.inputs import UsageError
from service.predict_many.lists import Entry, read_list
from service.predict_many.sources import find
from service.predict_many.stores import Remote, StoreError, locate
from tests.service.harness import encode, picture


def table(**columns: list[Any]) -> bytes:
    buffer = BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def twice(name: str) -> bytes:
    buffer = BytesIO()
    parquet.write_table(pa.table([["a"], ["b"]], names=[name, name]), buffer)
    return buffer.getvalue()


def coco(*images: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"images": images, **others}).encode()


PLAIN = [Entry("a.png"), Entry("more/b.jpg")]
NUMBERED = [Entry("a.png", 7), Entry("more/b.jpg", 3)]


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        pytest.param(".txt", b"a.png\nmore/b.jpg\n", PLAIN, id="text"),
        pytest.param(".txt", b"\xef\xbb\xbfa.png\r\n\r\nmore/b.jpg", PLAIN, id="text of Windows"),
        pytest.param(".txt", "s3://x/ä, b.png\n".encode(), [Entry("s3://x/ä, b.png")], id="a comma is no column"),
        pytest.param(
            ".txt",
            "a\u2028\x0cb.png\rc.png\r\n".encode(),
            [Entry("a\u2028\x0cb.png"), Entry("c.png")],
            id="ends of lines",
        ),
        pytest.param(
            ".csv",
            b'\xef\xbb\xbffile_name,note\n"a, ""b"".png","x;y;z"\n"c\nd.png",\n',
            [Entry('a, "b".png'), Entry("c\nd.png")],
            id="quotes",
        ),
        pytest.param(".csv", b"file_name\na.png\nmore/b.jpg\n", PLAIN, id="CSV of names"),
        pytest.param(".csv", b"Path,width\na.png,5\nmore/b.jpg,6\n", PLAIN, id="other columns"),
        pytest.param(".csv", b"image_id;image\r\n7;a.png\r\n3.0;more/b.jpg\r\n", NUMBERED, id="a spreadsheet with ids"),
        pytest.param(".tsv", b"id\tname\nx-1\ta.png\n", [Entry("a.png", "x-1")], id="text for an id"),
        pytest.param(".parquet", table(image=["a.png", "more/b.jpg"], n=[1, 2]), PLAIN, id="Parquet"),
        pytest.param(".parquet", table(uri=["a.png", "more/b.jpg"], image_id=[7, 3]), NUMBERED, id="Parquet with ids"),
        pytest.param(
            ".json",
            coco({"file_name": "a.png", "id": 7, "width": 9}, {"file_name": "more/b.jpg", "id": 3}),
            NUMBERED,
            id="COCO",
        ),
    ],
)
def test_lists(suffix: str, content: bytes, expected: list[Entry]) -> None:
    found = read_list("list", suffix, content)
    assert (list(found.entries), found.categories) == (expected, None)


def test_a_coco_dataset_has_categories() -> None:
    content = coco({"file_name": "a.png", "id": 7}, categories=[{"id": 5, "name": "cell"}, {"id": 0, "name": "ring"}])
    assert read_list("list", ".json", content).categories == {"cell": 5, "ring": 0}


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        pytest.param(".txt", b"\n \n", "names no images", id="empty"),
        pytest.param(".txt", b"\xff\xfe\x00", "is no text in UTF-8", id="bytes"),
        pytest.param(".txt", "a.png\nb.png\n".encode("utf-16-le"), "is no image's name", id="UTF-16 without a mark"),
        pytest.param(".txt", b"a.png\nb.png\na.png\n", "has the image a.png twice", id="twice"),
        pytest.param(".csv", b"", "names no images", id="empty CSV"),
        pytest.param(".csv", b"a.png\nb.png\n", "has no column of the images' names, only a.png", id="no header"),
        pytest.param(".csv", b"file_nam,x\na.png,1\n", "did you mean file_name", id="a misspelled header"),
        pytest.param(".csv", b"name,x\na.png\n", "row 2 has 1 cells, and its header 2", id="a short row"),
        pytest.param(".csv", b"name,id\na.png,1\nb.png,1\n", "has the id 1 twice", id="an id twice"),
        pytest.param(".csv", b"name,id\na.png,1\nb.png,\n", "'b.png' with the id ''", id="no id"),
        pytest.param(".csv", b"name,id,Name\na,1,b\n", "has 2 columns that are called name", id="two columns of names"),
        pytest.param(".csv", b"name,id,id\na,1,2\n", "has 2 columns that are called id", id="two columns of ids"),
        pytest.param(".parquet", b"PAR1", "is no Parquet file", id="no Parquet"),
        pytest.param(
            ".parquet",
            table(image=[{"bytes": b"x" * 999, "path": "a.png"}]),
            "its column image is struct<bytes: binary, path: string>, and not names of files",
            id="images in the table",
        ),
        pytest.param(".parquet", table(path=[b"a.png"]), "its column path is binary, and not", id="names as bytes"),
        pytest.param(".parquet", twice("path"), "has 2 columns that are called path", id="a column twice"),
        pytest.param(
            ".parquet",
            table(path=["a"], id=pa.array([2**63], pa.uint64())),
            "with the id 9223372036854775808 is no",
            id="65 bits",
        ),
        pytest.param(".parquet", table(x=["a"]), "has no column of the images' names, only x", id="no names"),
        pytest.param(".parquet", table(path=["a", None]), "None is no image's name", id="a name that is missing"),
        pytest.param(
            ".parquet", table(path=["a", "b"], id=[1, None]), "b has no id, and others have", id="an id missing"
        ),
        pytest.param(".json", b"{", "is not valid JSON", id="half a JSON"),
        pytest.param(".json", b"[]", "is no COCO dataset", id="a list of results"),
        pytest.param(".json", coco(), "names no images", id="no images"),
        pytest.param(".json", coco({"file_name": "a.png"}), "image 0 of its list has no file_name or no id", id="COCO"),
    ],
)
def test_what_is_no_list_is_one_line(suffix: str, content: bytes, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_list("list", suffix, content)
    assert str(refused.value).startswith("list")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_bytes(encode(picture(1)))
    return tmp_path


def test_names_begin_where_the_list_lies_or_where_it_is_said(data: Path) -> None:
    (data / "list.txt").write_text("val/a.png\n")
    (data / "names.txt").write_text("a.png\nb.png\n")
    (data / "absolute.txt").write_text(f"{data}/val/a.png\n")
    (data / "uri.txt").write_text(f"file://{data}/val/a%2Epng\n")
    cases = {"list.txt": None, "names.txt": str(data / "val"), "absolute.txt": None, "uri.txt": None}
    for name, root in cases.items():
        first = find([str(data / name)], root).images[0]
        assert first.place == data / "val" / "a.png"
        assert first.read() == (data / "val" / "a.png").read_bytes()
    (last,) = find([str(data / "uri.txt")], None).images
    assert (last.name, last.place) == (f"file://{data}/val/a%2Epng", data / "val" / "a.png")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("a.png\n", "none of its images is there, not even {data}/a.png; their names begin at", id="root"),
        pytest.param("ftp://x/a.png\n", "ftp://x/a.png: ftp:// is not known here", id="a scheme"),
    ],
)
def test_a_list_of_nothing_that_is_there_is_refused(content: str, said: str, data: Path) -> None:
    (data / "list.txt").write_text(content)
    with pytest.raises(UsageError) as refused:
        find([str(data / "list.txt")], None)
    assert said.format(data=data) in str(refused.value)


@pytest.mark.parametrize("source", ["images", "images/*.png", "list.txt", "images/a.png"])
def test_the_same_names_in_another_working_folder_are_other_images(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was begun in the one is not gone on with in the other."""
    found = []
    for folder in (tmp_path / "one", tmp_path / "other", tmp_path / "one"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "images" / "a.png").write_bytes(b"")
        (folder / "list.txt").write_text("images/a.png\n")
        monkeypatch.chdir(folder)
        images = find([source], None)
        assert [image.name for image in images.images] == ["images/a.png"]
        found.append(images.sha256)
    one, other, again = found
    assert one == again != other


def test_a_whole_path_is_behind_file(data: Path) -> None:
    for before in ("file://", "FILE://localhost"):
        assert locate(f"{before}{data}/val/a%2Epng") == data / "val" / "a.png"
    for wrong in ("file://val", "file://", "file://elsewhere/val"):
        with pytest.raises(UsageError, match=f"{wrong}: behind file:// goes a whole path"):
            locate(wrong)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("s3://bucket/what?.png", "bucket/what?.png", id="a question mark"),
        pytest.param("s3://bucket/a?b/c.png?region=us-east-1", "bucket/a?b/c.png", id="and options"),
        pytest.param("s3://bucket/y=5/a b%20#1.png", "bucket/y=5/a b%20#1.png", id="as it is"),
        pytest.param("s3://bucket/images/", "bucket/images", id="a slash at the end"),
        pytest.param("s3://bucket", "bucket", id="a bucket"),
    ],
)
def test_keys_are_what_they_are(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # or Amazon's would be asked for the bucket's region
    place = locate(text)
    assert isinstance(place, Remote)
    assert (place.path, place.uri) == (path, f"s3://{path}")


@pytest.mark.parametrize("text", ["s3://bucket/a//b.png", "s3://bucket//a.png", "gs://anonymous@bucket/a///b.png"])
def test_a_key_with_an_empty_part_is_not_another_one(text: str) -> None:
    with pytest.raises(UsageError, match="no store is asked for names with // in them"):
        locate(text)


@pytest.mark.parametrize(("sources", "root"), [([""], None), (["list.txt"], "")])
def test_an_empty_name_is_not_the_working_folder(
    sources: list[str], root: str | None, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "list.txt").write_text("val/a.png\n")
    monkeypatch.chdir(data)
    with pytest.raises(UsageError, match="an empty name"):
        find(sources, root)


def test_a_machine_without_descriptors_is_not_the_image_s_fault(data: Path) -> None:
    """The run stops, and the image keeps its chance."""
    image = find([str(data / "val" / "a.png")], None).images[0]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as next_one:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one.fileno(), limits[1]))
    try:
        with pytest.raises(StoreError, match=r"a\.png cannot be read: Too many open files"):
            image.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert image.read() == (data / "val" / "a.png").read_bytes()
