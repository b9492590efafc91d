"""Requests whose end two servers may see in different places, so that one hides another request for the second."""

from __future__ import annotations

HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

SHAPES = {
    "a length and chunks": PREDICT + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
    "chunks and a length": PREDICT + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": PREDICT + b"Content-Length: 4\r\nContent-Length: 38\r\n\r\nabcd" + HIDDEN,
    "a list of lengths": PREDICT + b"Content-Length: 4, 38\r\n\r\nabcd" + HIDDEN,
    "a length with a sign": PREDICT + b"Content-Length: +4\r\n\r\nabcd" + HIDDEN,
    "a length in hexadecimal": PREDICT + b"Content-Length: 0x4\r\n\r\nabcd" + HIDDEN,
    "a length of too many digits": PREDICT + b"Content-Length: 18446744073709551620\r\n\r\nabcd" + HIDDEN,
    "a space before the colon": PREDICT + b"Content-Length : 4\r\n\r\nabcd" + HIDDEN,
    "a line that is folded": PREDICT + b"X: y\r\n Content-Length: 4\r\n\r\nabcd" + b"\0" + HIDDEN,
    "a coding that is none": PREDICT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding in front": PREDICT + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding behind": PREDICT + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings": PREDICT + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a vertical tab before the coding": PREDICT + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a chunk of negative size": PREDICT + CHUNKED + b"\r\n-1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a chunk of 2 ** 64 bytes": PREDICT + CHUNKED + b"\r\n10000000000000000\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a chunk with text behind its size": PREDICT + CHUNKED + b"\r\n1 x\r\na\r\n0\r\n\r\n" + HIDDEN,
    "a chunk that is longer than it says": PREDICT + CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "lines that end in a line feed alone": b"POST /predict HTTP/1.1\nHost: x\nContent-Length: 4\n\nabcd" + HIDDEN,
    "a carriage return within a line": PREDICT + b"X: y\rContent-Length: 4\r\n\r\nabcd" + HIDDEN,
    "a null in a name": PREDICT + b"Content-Length\0: 4\r\n\r\nabcd" + HIDDEN,
}
"""By what is odd about it. None of them may be answered more than once, and that with 400."""
