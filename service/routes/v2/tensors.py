"""Requests and responses of the Open Inference Protocol v2 as bytes, with Triton's binary tensor data extension.

A body is a JSON object. Tensors that it announces with `binary_data_size` follow it, in its order and little-endian; an
element of BYTES is its length in 4 bytes and then its content. The header Inference-Header-Content-Length says where
the JSON ends; a 0 there means that the body has none and is one image file.
"""

from __future__ import annotations

import binascii
import re
import reprlib
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from service.http.problems import BAD_TENSORS, INVALID_PARAMETER, Problem
from service.routes.v2.schemas import IMAGE, MASKS, Datatype, InferParameters, InferResponseParameters

_NAMED = 5  # of the unknown names, which may be as many as the body holds, an error names this many
MOST_VALUES: Final = 200_000
"""Of the JSON: each takes some fifty bytes of memory, however short it is. Images in base64 are one each."""
_JSON: Final = re.compile(rb"\s*[\[{]")
_LENGTH: Final = struct.Struct("<I")
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
_PARAMETERS: Final = tuple(InferParameters.model_fields)
_JSON_TYPES: Final[Mapping[type, str]] = {str: "a string", list: "an array", dict: "an object", bool: "true or false"}

_T = TypeVar("_T", str, list[Any], dict[str, Any], bool)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`images` are encoded files, at least one; `outputs` is what to answer with, in this order.

    `parameters.masks` is "none" whenever no output needs masks, so it says what has to be computed.
    """

    id: str | None
    images: tuple[bytes, ...]
    parameters: InferParameters
    outputs: tuple[RequestedOutput, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An output: an array for FP32 and INT64, for BYTES a list of UTF-8 strings, which is one-dimensional."""

    name: str
    datatype: Datatype
    data: NDArray[Any] | Sequence[bytes]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape if isinstance(self.data, np.ndarray) else (len(self.data),)

    def binary(self) -> bytes:
        if isinstance(self.data, np.ndarray):
            return self._array(self.data).tobytes()
        return b"".join(part for element in self.data for part in (_LENGTH.pack(len(element)), element))

    def json(self) -> NDArray[Any] | list[str]:
        """Flat, in row-major order, as orjson takes it."""
        if isinstance(self.data, np.ndarray):
            return self._array(self.data).reshape(-1)
        return [element.decode() for element in self.data]

    def _array(self, data: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(data, _DTYPES[self.datatype])


def parse_header_length(value: str | None) -> int | None:
    """The number in the request header Inference-Header-Content-Length, if there is one. Raises Problem."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise _bad(
            f"The header Inference-Header-Content-Length is {_show(value)}; it must be the number of bytes of the JSON "
            "that the body begins with."
        )
    return int(value)


def parse_infer_request(
    body: bytes, header_length: int | None, *, output_names: Collection[str], max_images: int
) -> InferRequest:
    """Read the request of a model that has the outputs `output_names`; `header_length` None: the body is all JSON.

    Raises Problem: the body is no such request (BAD_TENSORS) or a parameter's value is wrong (INVALID_PARAMETER).
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise _bad(
            f"The header Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes; "
            "it must be the length of the JSON that the body begins with."
        )
    if header_length == 0:
        return InferRequest(None, (body,), *_parse_outputs([], InferParameters(binary_data_output=True), output_names))
    if _JSON.match(body) and sum(body.count(mark, 0, header_length) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise _bad(
            f"The JSON has more than {MOST_VALUES} values; send fewer, or say by the header "
            "Inference-Header-Content-Length where it ends and binary data begin."
        )
    header, rest = memoryview(body), None
    if header_length is not None:
        header, rest = header[:header_length], header[header_length:]
    document = _parse_json(header)
    request_id = _member(document, "id", str)
    parameters = _parse_parameters(_member(document, "parameters", dict) or {})
    parameters, outputs = _parse_outputs(_member(document, "outputs", list) or [], parameters, output_names)
    images = _parse_images(_find_image(document), rest, max_images)
    return InferRequest(request_id, images, parameters, outputs)


def render_infer_response(
    request: InferRequest, model_name: str, model_version: str, said: InferResponseParameters, tensors: Iterable[Tensor]
) -> tuple[bytes, int | None]:
    """The body and the number for the response header Inference-Header-Content-Length; None: it is all JSON.

    `tensors` must have every output that the request asks for and may have more. A body with a number is sent as
    application/octet-stream.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    outputs: list[dict[str, Any]] = []
    binaries: list[bytes] = []
    for requested in request.outputs:
        tensor = by_name[requested.name]
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if requested.binary:
            binaries.append(tensor.binary())
            output["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            output["data"] = tensor.json()
        outputs.append(output)
    document = {
        "model_name": model_name,
        "model_version": model_version,
        **({} if request.id is None else {"id": request.id}),
        "parameters": said.model_dump(),
        "outputs": outputs,
    }
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *binaries]), len(header) if binaries else None


def _parse_json(header: memoryview) -> dict[str, Any]:
    try:
        document = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise _bad(
            f"The body does not begin with the JSON of an inference request ({error}); if binary data follows the "
            "JSON, the header Inference-Header-Content-Length must be the JSON's length in bytes."
        ) from None
    if not isinstance(document, dict):
        raise _bad(f"The request is {_show(document)}; it must be a JSON object with inputs.")
    return document


def _parse_parameters(values: dict[str, Any]) -> InferParameters:
    _refuse_unknown(values, _PARAMETERS, "parameters")
    try:
        return InferParameters.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as invalid:
        errors = [
            {"parameter": str(error["loc"][0]), "message": error["msg"].removeprefix("Input ")}
            for error in invalid.errors(include_url=False, include_context=False, include_input=False)
        ]
    detail = "; ".join(f"{error['parameter']}: {error['message']}" for error in errors)
    raise Problem(INVALID_PARAMETER, detail, extra={"errors": errors})


def _parse_outputs(
    requested: list[Any], parameters: InferParameters, names: Collection[str]
) -> tuple[InferParameters, tuple[RequestedOutput, ...]]:
    """The outputs to answer with, and the parameters that say whether masks are among them."""
    outputs: dict[str, RequestedOutput] = {}
    for index, value in enumerate(requested):
        output = _parse_output(value, f"outputs[{index}]", parameters.binary_data_output, names)
        if output.name in outputs:
            raise _bad(f"outputs[{index}]: {output.name} is asked for twice; name each output once.")
        outputs[output.name] = output
    if not requested:
        left_out = MASKS.name if parameters.masks == "none" else None
        outputs = {name: RequestedOutput(name, parameters.binary_data_output) for name in names if name != left_out}
    elif MASKS.name in outputs and parameters.masks == "none":
        raise Problem(
            INVALID_PARAMETER,
            f"masks: none leaves out the output {MASKS.name}, which outputs ask for; drop one of the two.",
        )
    if MASKS.name not in outputs:
        parameters = parameters.model_copy(update={"masks": "none"})
    return parameters, tuple(outputs.values())


def _parse_output(value: Any, where: str, binary: bool, names: Collection[str]) -> RequestedOutput:
    if not isinstance(value, dict):
        raise _bad(f'{where} is {_show(value)}; it must be an object such as {{"name": "BOXES"}}.')
    name = _member(value, "name", str, f"{where}.")
    if name is None or name not in names:
        raise _bad(f"{where}: there is no output {_show(name)}; the model has {', '.join(names)}.")
    options = _member(value, "parameters", dict, f"{where}.") or {}
    _refuse_unknown(options, ("binary_data",), f"{where}.parameters")
    asked = _member(options, "binary_data", bool, f"{where}.parameters.")
    return RequestedOutput(name, binary if asked is None else asked)


def _find_image(document: dict[str, Any]) -> dict[str, Any]:
    inputs = _member(document, "inputs", list) or []
    if len(inputs) != 1:
        raise _bad(f"inputs has {len(inputs)} tensors; send one, {IMAGE.name}, with all images in it.")
    tensor = inputs[0]
    if not isinstance(tensor, dict):
        raise _bad(f"inputs[0] is {_show(tensor)}; it must be an object with name, datatype and shape.")
    if tensor.get("name") != IMAGE.name:
        raise _bad(f"inputs[0]: the model has no input {_show(tensor.get('name'))}; name it {IMAGE.name}.")
    if tensor.get("datatype") != IMAGE.datatype:
        raise _bad(
            f"{IMAGE.name}: datatype is {_show(tensor.get('datatype'))}; it must be {IMAGE.datatype}: encoded image "
            "files such as JPEG or PNG, not pixels."
        )
    return tensor


def _parse_images(tensor: dict[str, Any], rest: memoryview | None, max_images: int) -> tuple[bytes, ...]:
    """The elements of the input, of which the binary ones are in `rest`, all that follows the JSON."""
    shape = _member(tensor, "shape", list, f"{IMAGE.name}.") or []
    if len(shape) not in (1, 2) or any(type(length) is not int for length in shape) or shape[1:] not in ([], [1]):
        raise _bad(f"{IMAGE.name}: shape is {_show(shape)}; it must be [N] or [N, 1] for N images.")
    if not 1 <= shape[0] <= max_images:
        raise _bad(f"{IMAGE.name}: shape {_show(shape)} means {shape[0]} images; send 1 to {max_images} in a request.")
    parameters = _member(tensor, "parameters", dict, f"{IMAGE.name}.") or {}
    _refuse_unknown(parameters, ("binary_data_size", "content_type"), f"{IMAGE.name}.parameters")
    size, data = parameters.get("binary_data_size"), _member(tensor, "data", list, f"{IMAGE.name}.")
    if (size is None) == (data is None):
        raise _bad(f"{IMAGE.name}: send its images either in data, as base64, or as binary data of binary_data_size.")
    # MLServer's clients mark base64 so.
    if (content_type := parameters.get("content_type")) is not None and (content_type != "base64" or data is None):
        raise _bad(f"{IMAGE.name}: content_type is {_show(content_type)}; leave it out, or send base64 in data.")
    if data is not None:
        if rest:
            raise _bad(f"{len(rest)} bytes follow the JSON, but {IMAGE.name} has data; send one of the two.")
        return _from_json(data, shape)
    if rest is None:
        raise _bad(
            f"{IMAGE.name} has a binary_data_size, but the request has no header Inference-Header-Content-Length; "
            "send it with the length of the JSON in bytes."
        )
    if type(size) is not int or size != len(rest):
        raise _bad(f"{IMAGE.name}: binary_data_size is {_show(size)}, but {len(rest)} bytes follow the JSON.")
    return _from_binary(rest, shape[0])


def _from_json(data: list[Any], shape: list[int]) -> tuple[bytes, ...]:
    if len(shape) == 2 and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    if len(data) != shape[0]:
        raise _bad(f"{IMAGE.name}: data has {len(data)} elements, but shape is {_show(shape)}.")
    images = []
    for index, element in enumerate(data):
        if not isinstance(element, str):
            raise _bad(f"{IMAGE.name}: data[{index}] is {_show(element)}; it must be a string, an image in base64.")
        try:
            images.append(binascii.a2b_base64(element, strict_mode=True))
        except ValueError as error:
            raise _bad(
                f"{IMAGE.name}: data[{index}] is not base64 ({error}); encode the image file with the standard "
                "alphabet and padding, without line breaks or a data: prefix, or send it as binary data."
            ) from None
    return tuple(images)


def _from_binary(data: memoryview, count: int) -> tuple[bytes, ...]:
    images: list[bytes] = []
    start = 0
    for index in range(count):
        left = len(data) - start - _LENGTH.size
        length = _LENGTH.unpack_from(data, start)[0] if left >= 0 else None
        if length is None or length > left:
            what = "has no length in front" if length is None else f"should have {length} bytes, but {left} are left"
            raise _bad(
                f"{IMAGE.name}: the binary data ends too early: image {index} of {count} {what}; each is its length as "
                "4 bytes, little-endian, and then its content."
            )
        start += _LENGTH.size
        images.append(bytes(data[start : start + length]))
        start += length
    if start != len(data):
        raise _bad(f"{IMAGE.name}: {len(data) - start} bytes are left after its {count} images; count them in shape.")
    return tuple(images)


def _member(document: dict[str, Any], name: str, kind: type[_T], where: str = "") -> _T | None:
    """The member, None where it is missing or null. Raises Problem if it has another type."""
    value = document.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _bad(f"{where}{name} is {_show(value)}; it must be {_JSON_TYPES[kind]}.")


def _refuse_unknown(values: dict[str, Any], known: Collection[str], where: str) -> None:
    """A misspelled parameter must not silently do nothing."""
    unknown = [name for name in values if name not in known]
    if unknown:
        names = ", ".join(map(_show, unknown[:_NAMED])) + (" and more" if len(unknown) > _NAMED else "")
        raise Problem(INVALID_PARAMETER, f"{where}: there is no {names}; leave it out or use {', '.join(known)}.")


class _Short(reprlib.Repr):
    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return "{...}" if x else "{}"  # the base class would sort the keys, which may be millions


_show = _Short().repr
"""A value of the client's for a message: short, whatever it is."""


def _bad(detail: str) -> Problem:
    return Problem(BAD_TENSORS, detail)
