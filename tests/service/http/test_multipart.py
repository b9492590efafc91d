"""Finding the file in multipart bodies, good and bad."""

from __future__ import annotations

import os

import pytest

from service.http.multipart import File, find_file, find_files
from service.http.problems import Problem

HEAD = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'


def body(*parts: bytes, end: bytes = b"--xyz--\r\n") -> bytes:
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + end


CONTENT = bytes(range(256)) * 40

GOOD = [
    pytest.param(body(HEAD + CONTENT), CONTENT, id="one file"),
    pytest.param(body(HEAD), b"", id="an empty file"),
    pytest.param(body(HEAD + CONTENT, end=b"--xyz--"), CONTENT, id="nothing after the last boundary"),
    pytest.param(body(HEAD.lower() + CONTENT), CONTENT, id="header names in small letters"),
    pytest.param(body(b'Content-Disposition: form-data; name="file"\r\n\r\n' + CONTENT), CONTENT, id="no file name"),
    pytest.param(
        body(b"Content-Disposition: form-data; name=file\r\n\r\n" + CONTENT), CONTENT, id="name without quotes"
    ),
    pytest.param(body(HEAD + b"\r\n--xy"), b"\r\n--xy", id="content that begins like the boundary"),
    pytest.param(body(HEAD + b"\r\n--xyz?"), b"\r\n--xyz?", id="content with the boundary and something else"),
    pytest.param(body(HEAD + b"\r\n\r\n"), b"\r\n\r\n", id="content of line ends"),
]


@pytest.mark.parametrize(("multipart", "content"), GOOD)
def test_finds_the_file(multipart: bytes, content: bytes) -> None:
    assert find_file(multipart, b"xyz").content == content


BAD = [
    pytest.param(b"", "empty or ends", id="nothing"),
    pytest.param(b"hello", "not valid", id="no boundary at all"),
    pytest.param(b"--abc\r\n" + HEAD + b"\r\n--abc--", "not valid", id="another boundary"),
    pytest.param(body(HEAD + CONTENT)[:-20], "ends before", id="cut short in the content"),
    pytest.param(body(HEAD + CONTENT, end=b""), "ends before", id="no last boundary"),
    pytest.param(body(end=b"--xyz--"), "no part named file", id="no part"),
    pytest.param(body(HEAD + b"1", HEAD + b"2"), "several parts named file", id="two files"),
    pytest.param(body(HEAD.replace(b'"file"', b'"image"') + b"1"), "Unknown part 'image'", id="another name"),
    pytest.param(
        body(HEAD + b"1", b'Content-Disposition: form-data; name="score_threshold"\r\n\r\n0.5'),
        "Unknown part 'score_threshold'",
        id="a parameter as a part",
    ),
    pytest.param(body(b"Content-Type: image/png\r\n\r\n1"), "Unknown part ''", id="a part without a name"),
    pytest.param(body(b"no colon\r\n\r\n1"), "not valid", id="a broken header"),
    pytest.param(body(*[HEAD] * 3), "more than", id="too many parts"),
    pytest.param(body(HEAD + b"\r\n--xyz?" * 4), "more than", id="too many boundaries"),
]


@pytest.mark.parametrize(("multipart", "message"), BAD)
def test_refuses_what_is_not_one_file(multipart: bytes, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        find_file(multipart, b"xyz")
    assert caught.value.kind.status == 400


def test_refuses_an_endless_boundary() -> None:
    with pytest.raises(Problem, match="not valid"):
        find_file(body(HEAD), b"x" * 10_000)


def test_every_cut_of_a_good_body_is_refused() -> None:
    whole = body(HEAD + os.urandom(50), end=b"--xyz--")
    for length in range(len(whole)):
        with pytest.raises(Problem):
            find_file(whole[:length], b"xyz")


def test_several_files_keep_their_order_and_names() -> None:
    other = HEAD.replace(b"a.png", b"\xc3\xa4 b.png")
    nameless = b'Content-Disposition: form-data; name="file"\r\n\r\n'
    files = find_files(body(HEAD + b"1", other + b"2", nameless + b"3"), b"xyz", 3)
    assert files == [File(b"1", "a.png"), File(b"2", "ä b.png"), File(b"3", "")]


def test_no_more_files_than_allowed() -> None:
    with pytest.raises(Problem, match="more than 2 parts; send fewer images at once"):
        find_files(body(HEAD, HEAD, HEAD), b"xyz", 2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("filename*=utf-8''na%C3%AFve.png", "naïve.png"),
        ("filename*=UTF-8'en'%e2%82%ac%20rates.png", "€ rates.png"),
        ("FileName* = iso-8859-1''na%EFve.png", "naïve.png"),
        ("filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve.png", "naïve.png"),
        ("filename*=UTF-8''na%C3%AFve.png; filename=plain.png", "naïve.png"),
        ("filename*=UTF-8''%FF.png", "\ufffd.png"),
        ("filename=\"plain.png\"; filename*=utf-7''+AO8-.png", "plain.png"),
        ('filename="plain.png"; filename*=broken', "plain.png"),
        ("filename*=\"UTF-8''na%C3%AFve.png\"", "naïve.png"),
        ('filename*="UTF-8\'\'na%C3%AFve.png"; filename="plain.png"', "naïve.png"),
        ("filename=\"a; filename*=utf-8''b.png\"", "a; filename*=utf-8''b.png"),
        ('filename="naïve.png"', "naïve.png"),
    ],
)
def test_the_name_may_be_written_in_either_way(options: str, name: str) -> None:
    part = b'Content-Disposition: form-data; name="file"; ' + options.encode() + b"\r\n\r\n1"
    assert find_file(body(part), b"xyz") == File(b"1", name)


QUOTES = b'"' + b'\\"' * 30 + b"; filename*=utf-8''b.png"


def test_a_quote_that_does_not_end_goes_on_to_the_end() -> None:
    """And is looked into once: of each quote in it, a reader that tries again would look at all the rest."""
    part = b'Content-Disposition: form-data; name="file"; filename="a.png"; x=' + QUOTES + b"\r\n\r\n"
    assert find_file(body(part + CONTENT), b"xyz") == File(CONTENT, "a.png")
