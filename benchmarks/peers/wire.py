"""Requests to the servers as bytes on the wire, made once before anything is measured, and what their answers hold."""

from __future__ import annotations

import json
import struct
from typing import Any

from benchmarks.peers.network import Answer

BOUNDARY = "benchmark-boundary"


def raw(path: str, image: bytes, content_type: str) -> bytes:
    """The image file as the body."""
    return _post(path, image, {"Content-Type": content_type})


def multipart(path: str, field: str, image: bytes, content_type: str) -> bytes:
    """The image file as a form's part."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="image"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return _post(path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def inference(path: str, image: bytes) -> bytes:
    """The Open Inference Protocol's binary extension: a BYTES tensor `image` [1, 1] in, `answer` out the same way."""
    data = struct.pack("<I", len(image)) + image
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    output = {"name": "answer", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return _post(path, head + data, headers)


def _post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def from_json(body: bytes) -> Answer:
    """An answer that is the body."""
    answer: Answer = json.loads(body)
    return answer


def from_list(body: bytes) -> Answer:
    """An answer in a list of one."""
    (answer,) = json.loads(body)
    return dict(answer)


def from_inference(body: bytes) -> Answer:
    """An answer as the one element of a BYTES tensor behind a JSON head."""
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    if len(sizes) != 1:
        raise ValueError(f"one output was asked for, and {len(sizes)} came")
    data = body[end:]
    (length,) = struct.unpack_from("<I", data)
    return from_json(data[4 : 4 + length])


def columns(answer: dict[str, Any]) -> Answer:
    """What is compared of an answer: detections, and nothing that times them."""
    labels = answer.get("label_ids", answer["labels"])
    return {"boxes": answer["boxes"], "labels": labels, "scores": answer["scores"], "masks": answer["masks"]}
