"""The Open Inference Protocol's JSON as pydantic models, and the tensors that a model takes and returns."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from model.architecture import ArchitectureConfig
from service.parameters import PredictParameters
from service.priority import Priority

Datatype = Literal["BYTES", "FP32", "INT64"]

MAX_LABELS_LENGTH: Final = 65_536
"""Characters of all `labels` together; about what fits into the query of `/predict`."""

PLATFORMS: Final = {"onnx": "onnx_onnxv1", "torchscript": "pytorch_torchscript"}
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
    if architecture.task == "masks":
        tensors.append(MASKS)
    elif architecture.task == "keypoints":
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


class InferParameters(PredictParameters):
    """The request's `parameters`: those of `/predict`, except that the URL names the model, and the protocol's own."""

    model_config = ConfigDict(strict=True)

    masks: Literal["rle", "none"] = "rle"
    priority: Priority = Priority.INTERACTIVE
    timeout: int | None = Field(None, ge=0, lt=2**63, description="Microseconds; 0: the server's own timeout.")
    binary_data_output: bool = Field(False, description="Outputs are binary unless they say otherwise.")

    @property
    def timeout_seconds(self) -> float | None:
        """None for the server's own."""
        return self.timeout / 1e6 if self.timeout else None

    @field_validator("labels", mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        labels = [value] if isinstance(value, str) else value
        # Checked here and not by pydantic, which would list the errors of millions of elements.
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise PydanticCustomError("labels", "should be a list of names, or names separated by commas")
        if sum(map(len, labels)) > MAX_LABELS_LENGTH or len(labels) > MAX_LABELS_LENGTH:
            raise PydanticCustomError("labels", "should have at most {most} characters", {"most": MAX_LABELS_LENGTH})
        return labels

    @field_validator("priority", mode="before")
    @classmethod
    def _from_level(cls, value: Any) -> Priority:
        if value == "bulk" or (type(value) is int and value > 1):
            return Priority.BULK
        if value == "interactive" or (type(value) is int and value in (0, 1)):
            return Priority.INTERACTIVE
        raise PydanticCustomError(
            "priority", "should be interactive or bulk, or a number: 0 and 1 are interactive, more is bulk"
        )
