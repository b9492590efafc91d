"""Compressed bodies, sound and unsound."""

from __future__ import annotations

import base64
import gzip
import random
import tracemalloc
import zlib

import pytest

from service.http.gzipped import MAX_MEMBERS, MIN_COMPRESSED, compress, decompress, gunzip, inflate
from service.http.problems import BAD_ENCODING, TOO_MANY_BYTES, UNSUPPORTED_ENCODING, Problem, ProblemKind
from tests.service.harness import Server, encode, picture

TEXT = b"The quick brown fox jumps over the lazy dog. " * 100
NOISE = random.Random(0).randbytes(300_000)
LIMIT = 1_000_000
PACKED = gzip.compress(TEXT)


def refusal(data: bytes, encoding: str, max_bytes: int = LIMIT) -> ProblemKind:
    with pytest.raises(Problem) as caught:
        decompress(data, encoding, max_bytes)
    return caught.value.kind


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        pytest.param(TEXT, "", TEXT, id="none"),
        pytest.param(TEXT, "identity", TEXT, id="identity"),
        pytest.param(PACKED, "gzip", TEXT, id="gzip"),
        pytest.param(PACKED, " GZip ", TEXT, id="any case, spaces"),
        pytest.param(PACKED, "x-gzip", TEXT, id="its old name"),
        pytest.param(zlib.compress(TEXT), "deflate", TEXT, id="deflate"),
        pytest.param(gzip.compress(b""), "gzip", b"", id="nothing, packed"),
        pytest.param(gzip.compress(NOISE), "gzip", NOISE, id="longer than the input window"),
        pytest.param(zlib.compress(NOISE), "deflate", NOISE, id="deflate longer than the input window"),
        pytest.param(gzip.compress(b"a" * LIMIT), "gzip", b"a" * LIMIT, id="exactly the limit"),
        pytest.param(
            PACKED + gzip.compress(NOISE) + gzip.compress(b"end"), "gzip", TEXT + NOISE + b"end", id="members"
        ),
        pytest.param(gzip.compress(b"") * MAX_MEMBERS, "gzip", b"", id="as many members as may be"),
    ],
)
def test_what_was_packed_comes_out(data: bytes, encoding: str, expected: bytes) -> None:
    assert decompress(data, encoding, LIMIT) == expected


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param(b"", "gzip", id="nothing"),
        pytest.param(b"", "deflate", id="nothing as deflate"),
        pytest.param(TEXT, "gzip", id="not packed"),
        pytest.param(PACKED[:-1], "gzip", id="without the last byte"),
        pytest.param(PACKED[:5], "gzip", id="half a header"),
        pytest.param(PACKED[:-8] + bytes(8), "gzip", id="wrong checksum and length"),
        pytest.param(PACKED[:-4] + bytes(4), "gzip", id="wrong length"),
        pytest.param(PACKED + b"x", "gzip", id="something behind it"),
        pytest.param(PACKED + bytes(512), "gzip", id="zeros behind it"),
        pytest.param(PACKED + PACKED[:20], "gzip", id="half a second member"),
        pytest.param(gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip", id="more members than anybody needs"),
        pytest.param(zlib.compress(TEXT), "gzip", id="deflate as gzip"),
        pytest.param(PACKED, "deflate", id="gzip as deflate"),
        pytest.param(zlib.compress(TEXT)[:-1], "deflate", id="deflate without the last byte"),
        pytest.param(zlib.compress(TEXT) + b"x", "deflate", id="something behind deflate"),
        pytest.param(zlib.compress(TEXT) * 2, "deflate", id="deflate twice"),
        pytest.param(zlib.compress(TEXT, wbits=-15), "deflate", id="deflate without its header"),
    ],
)
def test_a_damaged_body_is_told(data: bytes, encoding: str) -> None:
    assert refusal(data, encoding) == BAD_ENCODING


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param(b"a" * (LIMIT + 1), "", id="not packed"),
        pytest.param(gzip.compress(b"a" * (LIMIT + 1)), "gzip", id="one byte more"),
        pytest.param(zlib.compress(b"a" * (LIMIT + 1)), "deflate", id="one byte more, deflate"),
        pytest.param(gzip.compress(b"a" * (LIMIT // 2)) * 3, "gzip", id="members together"),
    ],
)
def test_more_than_the_limit_is_refused(data: bytes, encoding: str) -> None:
    assert refusal(data, encoding) == TOO_MANY_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join([packer.compress(bytes(10**6)) for _ in range(200)]) + packer.flush()
    tracemalloc.start()
    try:
        assert refusal(bomb, encoding, 10**6) == TOO_MANY_BYTES
        assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,", "deflate, gzip", "identity, gzip", "*"])
def test_another_encoding_is_refused_with_those_that_are_accepted(encoding: str) -> None:
    with pytest.raises(Problem) as caught:
        decompress(PACKED, encoding, LIMIT)
    assert caught.value.kind == UNSUPPORTED_ENCODING
    assert encoding in caught.value.detail
    assert "gzip, deflate, or identity" in caught.value.detail


def test_gunzip_and_inflate_are_not_each_other() -> None:
    assert gunzip(PACKED, LIMIT) == inflate(zlib.compress(TEXT), LIMIT) == TEXT


@pytest.mark.parametrize(
    ("accept_encoding", "packed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("br, gzip ; q=0.001", True),
        ("*", True),
        ("gzip, identity;q=0", True),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("", False),
        ("identity", False),
        ("deflate", False),
        ("br, zstd", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("*, gzip;q=0", False),
        ("gzip;q=nonsense", False),
        ("gzip;q=-1", False),
        ("gzip;q=0.5, identity", False),
        ("notgzip", False),
    ],
)
def test_answers_are_packed_for_who_accepts_it(accept_encoding: str, packed: bool) -> None:
    body, encoding = compress(TEXT, accept_encoding)
    assert encoding == ("gzip" if packed else None)
    assert (gzip.decompress(body) if packed else body) == TEXT
    assert (len(body) < len(TEXT)) is packed


@pytest.mark.parametrize(
    ("body", "packed"),
    [
        pytest.param(b"", False, id="empty"),
        pytest.param(b"a" * (MIN_COMPRESSED - 1), False, id="too short"),
        pytest.param(b"a" * MIN_COMPRESSED, True, id="just long enough"),
        pytest.param(NOISE, False, id="does not get smaller"),
    ],
)
def test_answers_are_packed_where_it_pays(body: bytes, packed: bool) -> None:
    sent, encoding = compress(body, "gzip")
    assert (encoding is not None) is packed
    assert (gzip.decompress(sent) if packed else sent) == body


def test_packing_writes_no_time() -> None:
    packed, _ = compress(TEXT, "gzip")
    assert packed[4:8] == bytes(4)
    assert compress(TEXT, "gzip")[0] == packed


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/", "/page/main.js", "/predict", "/v2"])
@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("gzip;q=0.5, br", True),
        ("*", True),
        ("gzip;q=0", False),
        ("identity, gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
    ],
)
def test_every_answer_is_compressed_for_those_who_accept_it(
    server: Server, path: str, accepted: str, packed: bool
) -> None:
    headers = {"Accept-Encoding": accepted}
    if path == "/v2":
        data = base64.b64encode(encode(picture(size=(64, 128)))).decode()
        image = {"name": "IMAGE", "datatype": "BYTES", "shape": [4], "data": [data] * 4}
        answer = server.client.post("/v2/models/probe/infer", json={"inputs": [image]}, headers=headers)
    elif path == "/predict":
        content = encode(picture(size=(64, 128)))
        answer = server.client.post(f"{path}?masks=rle_uncompressed", content=content, headers=headers)
    else:
        answer = server.client.get(path, headers=headers)
    assert answer.status_code == 200
    assert len(answer.content) >= MIN_COMPRESSED
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert answer.headers["vary"].lower().split(", ").count("accept-encoding") == 1
