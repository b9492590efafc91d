"""What is said about bytes that are no image."""

from __future__ import annotations

from base64 import b64encode, encodebytes, urlsafe_b64encode

import httpx
import orjson
import pytest

from service.prediction.no_image import advice
from tests.service.harness import encode, picture

PNG, JPEG = encode(picture()), encode(picture(), "JPEG")
BASE64 = b64encode(PNG)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(orjson.dumps({"image": BASE64.decode()}), "look like JSON", id="JSON"),
        pytest.param(b'\xef\xbb\xbf\n [ "' + BASE64 + b'"]', "look like JSON", id="JSON with a byte order mark"),
        pytest.param(b'"' + BASE64 + b'"', "look like JSON", id="a string of JSON"),
        pytest.param(BASE64, "look like base64", id="base64"),
        pytest.param(encodebytes(PNG), "look like base64", id="base64 in lines"),
        pytest.param(urlsafe_b64encode(JPEG), "look like base64", id="base64 for URLs"),
        pytest.param(b"data:image/png;base64," + BASE64, "look like a data URL", id="data URL"),
        pytest.param(b"image=" + BASE64.replace(b"+", b"%2B"), "look like a form", id="a form's field"),
        pytest.param(
            httpx.Request("POST", "http://x", files={"file": PNG}).read(),
            "say so in the content type",
            id="multipart without its content type",
        ),
        pytest.param(PNG.translate(None, b"\r\n\0"), "without its line ends", id="PNG by curl -d"),
        pytest.param(PNG.replace(b"\r\n", b"\n"), "without its line ends", id="PNG in text mode"),
        pytest.param(PNG.decode(errors="replace").encode(), "read as text", id="PNG as UTF-8"),
        pytest.param(PNG.decode("latin-1").encode(), "read as text", id="PNG as Latin-1"),
        pytest.param(JPEG.decode(errors="replace").encode(), "read as text", id="JPEG as UTF-8"),
        pytest.param(JPEG.decode("latin-1").encode(), "read as text", id="JPEG as Latin-1"),
        pytest.param(b"https://example.org/a.png", "no address is fetched", id="an address"),
    ],
)
def test_what_is_often_sent_instead_is_told_where_to_go(data: bytes, said: str) -> None:
    for expected in (said, "POST /v2/models/NAME/infer", "a part named file"):
        assert expected in advice(data)


@pytest.mark.parametrize("data", [b"", b"hello", b64encode(b"no image at all"), bytes(100), b"\xff" * 2000])
def test_nothing_is_guessed_about_the_rest(data: bytes) -> None:
    assert advice(data) == ""
