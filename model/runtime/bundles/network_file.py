"""Whether a network's file is all that there is to the network, and how large its integers are.

An ONNX file may name other files that hold its tensors, anywhere on the machine: what a manifest's hashes and signature
say nothing about. It may also ask for operators of other libraries. Neither is ever exported here, and both are refused
before an engine sees the file. Engines parse it with protobuf; this reads only as much of that encoding as it takes to
find every tensor and node, and refuses what protobuf's own writers never write. So serving needs no library for ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np

from model.runtime.bundles.errors import DamagedFile, ForeignNetwork

DOMAINS: Final = ("", "ai.onnx", "com.microsoft")
"""Where operators come from: ONNX itself, by both of its names, and ONNX Runtime."""

_Kind = Literal["model", "graph", "node", "attribute", "tensor", "sparse", "function", "training"]

# Of each message of onnx.proto3, the fields with messages in which tensors or nodes can be.
_INSIDE: Final[dict[_Kind, dict[int, _Kind]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_FUNCTIONS: Final = 25
_FUNCTION_DOMAIN: Final = 10
_NODE_DOMAIN: Final = 7
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_DIMENSIONS: Final = 1
_DATA_TYPE: Final = 2
_RAW_DATA: Final = 9
_BYTE_TYPES: Final = {2: np.uint8, 3: np.int8}
"""Of ONNX's types of data."""

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""Bytes of numbers of a fixed size, by wire type."""

_Field = tuple[int, int, memoryview]
"""Wire type, number and bytes."""


class _UnreadableError(Exception):
    """Not protobuf as its writers write it."""


def check_network(content: memoryview, file: Path) -> None:
    """Raises ForeignNetwork, and DamagedFile where `content`, which is that of `file`, cannot be ONNX."""
    try:
        functions = [value for _, number, value in _fields(content) if number == _FUNCTIONS]
        known = {*DOMAINS, *(domain for function in functions for domain in _domains(function))}
        for kind, fields in _messages(content):
            for _, number, value in fields:
                if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and any(value))):
                    raise ForeignNetwork(
                        f"{file} keeps weights in another file, which nothing vouches for; export it into one file"
                    )
                if kind == "node" and number == _NODE_DOMAIN and (domain := _text(value)) not in known:
                    raise ForeignNetwork(
                        f"{file} asks for operators of {domain[:100]!r}, which no engine here has; export it again"
                    )
    except _UnreadableError:
        raise DamagedFile(f"{file} is no ONNX file; export the network again") from None


def largest_weight(content: memoryview) -> int | None:
    """The largest of the integers of one byte that the weights of a network in INT8 are, without its sign: of a file
    that `check_network` has let through. None where it has none, or keeps some otherwise than exports here do."""
    largest: int | None = None
    for kind, fields in _messages(content):
        if kind != "tensor":
            continue
        [*_, data_type] = _numbers(fields, _DATA_TYPE) or [0]
        if data_type not in _BYTE_TYPES or len(_numbers(fields, _DIMENSIONS)) < 2:  # zero points have one dimension
            continue
        raw = [value for _, number, value in fields if number == _RAW_DATA]
        if not raw:
            return None
        weights = np.frombuffer(raw[-1], _BYTE_TYPES[data_type])
        largest = max(largest or 0, -int(weights.min(initial=0)), int(weights.max(initial=0)))
    return largest


def _messages(content: memoryview) -> Iterator[tuple[_Kind, list[_Field]]]:
    """The fields of each message of a model in which tensors or nodes can be, and of each tensor. Raises
    _UnreadableError."""
    waiting: list[tuple[_Kind, memoryview]] = [("model", content)]
    while waiting:
        kind, message = waiting.pop()
        fields = [*_fields(message)]
        yield kind, fields
        for wire, number, value in fields:
            inside = _INSIDE[kind].get(number)
            if inside is not None and wire == _BYTES:
                waiting.append((inside, value))


def _numbers(fields: list[_Field], wanted: int) -> list[int]:
    """The values of a field of whole numbers, which are written one by one or together."""
    found = []
    for _, number, value in fields:
        at = 0
        while number == wanted and at < len(value):
            one, at = _varint(value, at)
            found.append(one)
    return found


def _domains(function: memoryview) -> Iterator[str]:
    return (_text(value) for _, number, value in _fields(function) if number == _FUNCTION_DOMAIN)


def _fields(message: memoryview) -> Iterator[_Field]:
    """Wire type, number and bytes of each field. Raises _UnreadableError."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        wire, number = tag & 7, tag >> 3
        start = at
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            size, start = _varint(message, at)
            at = start + size
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise _UnreadableError
        if at > end or not 0 < number < 1 << 29:
            raise _UnreadableError
        yield wire, number, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _UnreadableError
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _UnreadableError


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")
