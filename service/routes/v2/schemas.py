"""The Open Inference Protocol's JSON as pydantic models, and the tensors that a model takes and returns."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from model.architecture import ArchitectureConfig
from model.runtime.bundles.manifest import Precision
from model.runtime.images.channels import MOST_CHANNELS
from service.prediction.parameters import PredictParameters
from service.scheduling.priority import Priority

_T = TypeVar("_T")

Datatype = Literal["BYTES", "FP32", "INT64"]

MAX_LABELS_LENGTH: Final = 65_536
"""Characters of all `labels` together; about what fits into the query of `/predict`."""

PLATFORMS: Final = {"onnx": "onnx_onnxv1", "torchscript": "pytorch_torchscript", "openvino": "onnx_onnxv1"}
"""Engine name -> the protocol's name for what it runs."""


class TensorMetadata(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(description="-1 for a length that varies")


IMAGE: Final = TensorMetadata(name="IMAGE", datatype="BYTES", shape=(-1,))
"""The only input: N encoded image files."""
MASKS: Final = TensorMetadata(name="MASKS", datatype="BYTES", shape=(-1,))
"""[D]: the `counts` of COCO's compressed RLE. Their size is the image's, in `IMAGE_SIZES`."""


def output_tensors(architecture: ArchitectureConfig) -> tuple[TensorMetadata, ...]:
    """What a model of this architecture returns, flat over the D detections of all N images, image 0's first.

    `BOXES` are x1, y1, x2, y2 in pixels, `IMAGE_INDEX` says which image a detection belongs to, `IMAGE_SIZES` [N, 2]
    are heights and widths, and `KEYPOINTS` [D, K, 3] are x, y, score.
    """
    tensors = [
        TensorMetadata(name="BOXES", datatype="FP32", shape=(-1, 4)),
        TensorMetadata(name="SCORES", datatype="FP32", shape=(-1,)),
        TensorMetadata(name="LABELS", datatype="BYTES", shape=(-1,)),
        TensorMetadata(name="LABEL_IDS", datatype="INT64", shape=(-1,)),
        TensorMetadata(name="IMAGE_INDEX", datatype="INT64", shape=(-1,)),
        TensorMetadata(name="IMAGE_SIZES", datatype="INT64", shape=(-1, 2)),
    ]
    if architecture.has_masks:
        tensors.append(MASKS)
    if architecture.has_keypoints:
        tensors.append(TensorMetadata(name="KEYPOINTS", datatype="FP32", shape=(-1, architecture.num_keypoints, 3)))
    return tuple(tensors)


class ModelMetadata(BaseModel):
    """`GET /v2/models/NAME`."""

    name: str
    versions: list[str] = Field(description="those that can be asked for")
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ServerMetadata(BaseModel):
    """`GET /v2`."""

    name: str
    version: str
    extensions: list[str] = Field(description="of the protocol, by the names that Triton gives them")


class RepositoryEntry(BaseModel):
    """One version of one model in `POST /v2/repository/index`, which answers with a list of them."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str = Field("", description="why it is in that state, if there is anything to say")


def _allow_null(schema: dict[str, Any]) -> None:
    null = {"type": "null"}
    for name, of in schema["properties"].items():
        if null not in of.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [of, null]}


class InferParameters(PredictParameters):
    """The request's `parameters`: what to detect, as for `/predict`, and the protocol's own. null leaves one out."""

    model_config = ConfigDict(strict=True, json_schema_extra=_allow_null)

    masks: Literal["rle", "none"] = "rle"
    priority: Priority = Priority.INTERACTIVE
    timeout: int | None = Field(None, ge=0, lt=2**63, description="Microseconds; 0: the server's own timeout.")
    binary_data_output: bool = Field(False, description="Outputs are binary unless they say otherwise.")

    @property
    def timeout_seconds(self) -> float | None:
        """None for the server's own."""
        return self.timeout / 1e6 if self.timeout else None

    @field_validator("labels", mode="before", json_schema_input_type=list[str] | str)
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        labels = [value] if isinstance(value, str) else value
        # Checked here and not by pydantic, which would list the errors of millions of elements.
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise PydanticCustomError("labels", "should be a list of names, or names separated by commas")
        if sum(map(len, labels)) > MAX_LABELS_LENGTH or len(labels) > MAX_LABELS_LENGTH:
            raise PydanticCustomError("labels", "should have at most {most} characters", {"most": MAX_LABELS_LENGTH})
        return labels

    @field_validator("channels", mode="before", json_schema_input_type=list[int | None] | str)
    @classmethod
    def _from_numbers(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and all(name is None or type(name) is int for name in value[:MOST_CHANNELS]):
            return ["" if name is None else str(name) for name in value[: MOST_CHANNELS + 1]]
        raise PydanticCustomError("channels", "should be numbers separated by commas, or a list of numbers and null")

    @field_validator("priority", mode="before", json_schema_input_type=Priority | Annotated[int, Field(ge=0)])
    @classmethod
    def _from_level(cls, value: Any) -> Priority:
        if value == "bulk" or (type(value) is int and value > 1):
            return Priority.BULK
        if value == "interactive" or (type(value) is int and value in (0, 1)):
            return Priority.INTERACTIVE
        raise PydanticCustomError(
            "priority", "should be interactive or bulk, or a number: 0 and 1 are interactive, more is bulk"
        )

    @model_validator(mode="before")
    @classmethod
    def _without_fractions(cls, values: dict[str, Any]) -> dict[str, Any]:
        """JSON has one kind of number: 5.0 is an integer, and some clients write it so."""
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }


Count = Annotated[int, Field(ge=1)]
Some = Annotated[list[_T], Field(min_length=1)]
Base64 = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"})]


class ImageParameters(BaseModel):
    """Of the input in JSON."""

    model_config = ConfigDict(extra="forbid")

    content_type: Literal["base64"] | None = Field(None, description="what MLServer's clients say; it changes nothing")


class ImageTensor(BaseModel):
    """The input in JSON: N image files as base64. Sent as binary data, it has `binary_data_size` in place of `data`."""

    name: Literal["IMAGE"]
    datatype: Literal["BYTES"]
    shape: tuple[Count] | tuple[Count, Literal[1]] = Field(description="[N] or [N, 1]")
    data: Some[Base64] | Some[tuple[Base64]] = Field(description="N elements, or N lists of one")
    parameters: ImageParameters | None = None


class OutputParameters(BaseModel):
    """How to send an output."""

    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = Field(None, description="Default: what `binary_data_output` says.")


class OutputRequest(BaseModel):
    """One output to answer with; each at most once."""

    name: Literal["BOXES", "SCORES", "LABELS", "LABEL_IDS", "IMAGE_INDEX", "IMAGE_SIZES", "MASKS", "KEYPOINTS"] = Field(
        description="one that the model has, see `GET /v2/models/NAME`"
    )
    parameters: OutputParameters | None = None


class InferRequestBody(BaseModel):
    """The JSON of `POST /v2/models/NAME/infer`, for /docs; `tensors` reads it."""

    id: str | None = Field(None, description="comes back in the answer")
    inputs: list[ImageTensor] = Field(min_length=1, max_length=1, description="`IMAGE`")
    outputs: list[OutputRequest] | None = Field(None, description="Default: all that the model has.")
    parameters: InferParameters | None = None


class BinarySize(BaseModel):
    """Where an output's elements are."""

    binary_data_size: int = Field(ge=0, description="bytes behind the JSON, after those of the outputs before it")


class OutputTensor(BaseModel):
    """One output, its elements in `data`, row by row, or behind the JSON. `GET /v2/models/NAME` says what it holds."""

    name: str
    datatype: Datatype
    shape: list[Annotated[int, Field(ge=0)]]
    data: list[float] | list[str] | None = None
    parameters: BinarySize | None = None


class InferResponseParameters(BaseModel):
    """What `/predict` says around the detections. The protocol has no place for objects, so `images` is text."""

    precision: Precision = Field(description="what the network computed in")
    truncated: bool = Field(description="whether a limit cut detections off, or may have, in any of the images")
    images: str = Field(
        description="JSON: a list with the `image` of `/predict` for each, and its own `truncated`",
        json_schema_extra={"contentMediaType": "application/json"},
    )


class InferResponseBody(BaseModel):
    """The JSON of the answer, for /docs; `tensors` writes it."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="the request's, if it had one")
    parameters: InferResponseParameters
    outputs: list[OutputTensor]
