"""The limits of the fixture `impatient`, and how its refusals are read."""

from __future__ import annotations

import socket

import httpx

from tests.service.harness import encode, picture

MAX_UPLOADS = 12
MAX_BODY = 2_000_000
PNG = encode(picture(1))


def answer_until_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def problem_type(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:maskserve:problem:")
