"""What to do about bytes that are no image but what clients often send in its place."""

from __future__ import annotations

import base64
import re
from typing import Final

from model.runtime.images.signatures import sniff_format
from service.http.uploads import BASE64_GOES_TO, SEND_A_FILE

ADVISED: Final = 1024
"""Bytes that are looked at."""
_KINDS: Final = (
    (rb'"?data:[\w.+/-]*[;,]', "They look like a data URL."),
    (rb'[{\["]', "They look like JSON."),
    (
        rb"--[^\r\n]+\r?\n[Cc]ontent-",
        "They look like multipart/form-data: say so in the content type, with the boundary.",
    ),
    (rb"https?://", "They look like an address, and no address is fetched here."),
    (rb"\x89PNG", "They look like a PNG without its line ends, which curl -d removes and text modes change."),
    # U+FFFD in UTF-8 for what is no text, or Latin-1 turned into UTF-8: the beginnings of PNG and JPEG.
    (
        rb"(?:\xef\xbf\xbd|\xc2\x89)PNG|(?:\xef\xbf\xbd){3}|\xc3\xbf\xc3\x98\xc3\xbf",
        "They look like an image read as text.",
    ),
    (rb"[\w.%-]+=[^=]", "They look like a form's fields."),
)


def advice(data: bytes) -> str:
    """Sentences for whoever sent `data` as an image; empty when nothing is known to say."""
    start = data[:ADVISED].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _is_base64(start):
        return f"They look like base64. {SEND_A_FILE} {BASE64_GOES_TO}"
    for pattern, what in _KINDS:
        if re.match(pattern, start):
            return f"{what} {SEND_A_FILE} {BASE64_GOES_TO}"
    return ""


def _is_base64(start: bytes) -> bool:
    """Whether it begins an image's bytes in base64, plain or safe for URLs, in lines or not."""
    letters = re.sub(rb"\s", b"", start).translate(bytes.maketrans(b"-_", b"+/"))
    letters = letters[: len(letters) // 4 * 4]
    try:
        return sniff_format(base64.b64decode(letters, validate=True)) is not None
    except ValueError:
        return False
