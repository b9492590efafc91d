"""The JSON bodies as pydantic models: what the small routes answer with, and what /docs shows for /predict."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from model.architecture import Task
from model.runtime.manifest import Evaluation, Provenance, ServingDefaults
from model.runtime.preprocess import Preprocessing
from service.models import ServedModel


class Health(BaseModel):
    status: str
    models: list[str] = Field([], description="NAME/VERSION of what is served")


class ModelDetails(BaseModel):
    """One served model."""

    name: str
    version: int
    task: Task
    engine: str = Field(description="what runs the network: onnx or torchscript")
    device: str = Field(description="where: cpu or cuda")
    labels: dict[int, str] = Field(description="label id -> name")
    keypoints: list[str] = Field(description="names of a detection's keypoints, in order")
    defaults: ServingDefaults
    preprocessing: Preprocessing
    provenance: Provenance
    evaluation: list[Evaluation]

    @classmethod
    def of(cls, model: ServedModel) -> Self:
        manifest = model.manifest
        return cls(
            name=manifest.name,
            version=manifest.version,
            task=manifest.architecture.task,
            engine=model.engine.name,
            device=model.engine.device,
            labels=dict(enumerate(manifest.class_names, start=1)),
            keypoints=list(manifest.keypoint_names),
            defaults=manifest.defaults,
            preprocessing=manifest.preprocessing,
            provenance=manifest.provenance,
            evaluation=list(manifest.evaluation),
        )


class ModelList(BaseModel):
    default: str = Field(description="name of the model that answers when a request names none")
    models: list[ModelDetails]


class ModelReference(BaseModel):
    name: str
    version: int


class ImageSize(BaseModel):
    """Pixels of the image as seen, EXIF orientation applied."""

    width: int
    height: int


class CompressedRLE(BaseModel):
    """COCO's RLE as pycocotools reads it."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class UncompressedRLE(BaseModel):
    """Lengths of the runs in column-major order, background first."""

    size: tuple[int, int] = Field(description="height, width")
    counts: list[int]


class TimingMs(BaseModel):
    """Milliseconds. `inference` is the run of the whole batch that the image was part of."""

    decode: float
    queue: float
    inference: float
    postprocess: float


class Prediction(BaseModel):
    """Columns side by side: entry i of each belongs to detection i, in falling score."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": {"name": "nuclei", "version": 1},
                "image": {"width": 8, "height": 4},
                "boxes": [[1.0, 1.0, 4.0, 3.0]],
                "labels": ["nucleus"],
                "label_ids": [1],
                "scores": [0.98],
                "masks": [{"size": [4, 8], "counts": "522000?"}],
                "timing_ms": {"decode": 1.2, "queue": 0.4, "inference": 31.0, "postprocess": 0.8},
            }
        }
    )

    model: ModelReference
    image: ImageSize
    boxes: list[tuple[float, float, float, float]] = Field(description="x1, y1, x2, y2 in pixels of the image as seen")
    labels: list[str]
    label_ids: list[int]
    scores: list[float]
    masks: list[CompressedRLE | UncompressedRLE | list[list[list[float]]]] | None = Field(
        None,
        description="Missing when the model has none or none were asked for. As polygons, a mask is a list of parts, a "
        "part its outer ring and then its holes, a ring x, y, x, y, ... along pixel edges; COCO's polygons are the "
        "outer rings alone.",
    )
    keypoints: list[list[tuple[float, float, float]]] | None = Field(
        None, description="x, y, score of each; missing when the model has none. The score is the heatmap's logit"
    )
    timing_ms: TimingMs


class ProblemBody(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="a URN that never changes for one kind of error, or about:blank")
    title: str
    status: int
    detail: str
