"""Bodies that are too large for memory go to a private file, and read the same."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from mmap import mmap

import pytest

from service.http import spool
from service.http.multipart import find_files
from service.http.problems import Problem
from service.http.spool import Spool
from service.http.uploads import Upload

CONTENT = bytes(range(256)) * 40
BODY = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.tif"\r\n\r\n'
    + CONTENT
    + b'\r\n--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    + CONTENT[:50]
    + b"\r\n--x--\r\n"
)


@pytest.fixture(params=[1 << 30, 100, 5000])
def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many bytes are kept in memory."""
    limit: int = request.param
    monkeypatch.setattr(spool, "IN_MEMORY", limit)
    return limit


def spooled(content: bytes, step: int = 97) -> Spool:
    filled = Spool()
    for start in range(0, len(content), step):
        filled.write(content[start : start + step])
    return filled


@pytest.mark.parametrize("step", [1, 97, 10**6])
def test_what_was_written_is_there(in_memory: int, step: int) -> None:
    filled = spooled(CONTENT, step)
    assert filled.size == len(CONTENT)
    content = filled.content()
    assert bytes(content) == CONTENT
    assert isinstance(content, memoryview) == (in_memory < len(CONTENT))
    if isinstance(content, memoryview):
        assert isinstance(content.obj, mmap)
    assert Spool().content() == b""


def _gzipped(body: bytes) -> bytes:
    return zlib.compress(body, wbits=16 + zlib.MAX_WBITS) + zlib.compress(b"", wbits=16 + zlib.MAX_WBITS)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("", bytes), ("gzip", _gzipped), ("deflate", zlib.compress)],
)
def test_uploads_are_unpacked_and_searched(in_memory: int, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    upload = Upload(spooled(pack(BODY)).content(), encoding, b"x", len(BODY))
    first, second = upload.files(2)
    assert (bytes(first.content), first.name) == (CONTENT, "a.tif")
    assert bytes(second.content) == CONTENT[:50]
    assert upload.body() == BODY
    assert isinstance(upload.body(), bytes)
    alone = Upload(spooled(pack(CONTENT)).content(), encoding, None, len(CONTENT))
    assert bytes(alone.file().content) == CONTENT
    too_large = Upload(spooled(pack(CONTENT)).content(), encoding, None, len(CONTENT) - 1)
    with pytest.raises(Problem, match="At most 10239 bytes"):
        too_large.file()


@pytest.mark.parametrize(
    ("file", "why"),
    [("/dev/full", "No space left on device"), ("/no/such/folder/file", "No such file or directory")],
    ids=["full", "no folder"],
)
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda: spooled(CONTENT).content(), id="received"),
        pytest.param(lambda: Upload(_gzipped(CONTENT), "gzip", None, len(CONTENT)).file(), id="unpacked"),
        pytest.param(lambda: Upload(BODY, "", b"x", len(BODY)).files(2), id="taken apart"),
    ],
)
def test_a_body_that_finds_no_room_is_a_problem_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file: str,
    why: str,
    read: Callable[[], object],
) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 2000)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open(file, "r+b"))  # noqa: SIM115  # as the real one
    with pytest.raises(Problem, match=re.escape(why)) as raised:
        read()
    assert (raised.value.kind.status, raised.value.retry_after) == (507, None)
    assert "2000 bytes" in str(raised.value)
    assert file not in str(raised.value)
    assert why in caplog.text


@pytest.mark.parametrize("piece", [1, 2, 3, 50, 64, 1000])
def test_a_boundary_may_lie_across_pieces(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("service.http.multipart._PIECE", piece)
    assert [file.content for file in find_files(BODY, b"x", 2)] == [CONTENT, CONTENT[:50]]
