"""The JSON bodies as pydantic models: what the small routes answer with, and what /docs shows for the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from model.architecture import Task
from model.runtime.bundles.manifest import Evaluation, Manifest, Precision, Provenance, ServingDefaults
from model.runtime.engines.precision import ap_lost
from model.runtime.images.picture import PixelSizeSource
from model.runtime.images.values.intensity import AppliedMode
from model.runtime.preprocess import Preprocessing
from service.models.catalog import ServedModel, VersionState
from service.prediction.parameters import MAX_VERSION

Version = Annotated[int, Path(ge=1, le=MAX_VERSION)]


class Health(BaseModel):
    status: str
    models: list[str] = Field([], description="NAME/VERSION of what is served")


class VersionDetails(BaseModel):
    """One version of a model."""

    version: int
    state: Literal["served", "loading", "refused", "retired"]
    reason: str = Field("", description="why it is refused or retired, or served although its folder is gone")

    @classmethod
    def of(cls, versions: Sequence[VersionState]) -> list[Self]:
        return [cls(version=one.version, state=one.state, reason=one.reason) for one in versions]


class Proof(BaseModel):
    """What a model lost in one precision by one engine when it was published. Another engine's is no proof for it."""

    precision: Precision
    engine: str
    library: str = Field(description="with its version")
    processor: str
    ap: dict[str, float] = Field(description="such as mask/AP, 0 to 1")
    ap_lost: float | None = Field(
        description="the most of any kind that it has less than f32, 0 to 1; negative where it has more, null where "
        "that was not measured"
    )

    @classmethod
    def of(cls, manifest: Manifest) -> list[Self]:
        return [
            cls(
                precision=precision,
                engine=one.engine,
                library=one.library,
                processor=one.processor,
                ap=_ap(one),
                ap_lost=ap_lost(manifest, precision, one.engine),
            )
            for precision, measured in manifest.precisions.items()
            for one in (measured, *measured.other_engines)
            if precision != "f32" or one is not measured
        ]


def _ap(figures: Evaluation) -> dict[str, float]:
    return {name: value for name, value in figures.metrics.items() if name.endswith("/AP")}


class ModelDetails(BaseModel):
    """One served model; the details are those of the version that answers."""

    name: str
    version: int = Field(description="answers when none is named: the pinned one, else the newest served")
    pinned: int | None = Field(None, description="version that answers whatever is newer; null: the newest answers")
    versions: list[VersionDetails] = Field(description="newest first")
    task: Task
    channels: int = Field(description="how many it takes of an image; 3 are red, green and blue")
    engine: str = Field(description="what runs the network: onnx, openvino, torchscript or cuda")
    engine_why: str = Field(
        description="why the setting auto took it, and its precision where it took that too; empty: it was asked for"
    )
    precision: Precision = Field(description="what its network computes in")
    precision_why: str = Field(
        "", description="why the setting precision=auto took it on a CPU; empty: it was asked for, or it is a GPU's"
    )
    precisions: dict[Precision, dict[str, float]] = Field(
        description="what it can compute in -> its AP in it, all on the same images; by the engine that runs, where "
        "that was measured, else by the one that was; empty where nobody compared them"
    )
    proofs: list[Proof] = Field(
        description="each precision that was compared with f32, by each engine that computed it"
    )
    devices: list[str] = Field(description="where: cpu, cuda or cuda:N; they share one queue")
    max_batch_size: int = Field(description="most images in a batch; halved when one did not fit into memory")
    max_queue_size: int = Field(description="most images of one priority accepted and not yet answered")
    labels: dict[int, str] = Field(description="label id -> name")
    keypoints: list[str] = Field(description="names of a detection's keypoints, in order")
    defaults: ServingDefaults
    object_diameter: float | None = Field(
        None, description="pixels of what the network saw: the median of its training objects; null: not known"
    )
    preprocessing: Preprocessing
    provenance: Provenance
    evaluation: list[Evaluation]

    @classmethod
    def of(cls, model: ServedModel, versions: Sequence[VersionState], pinned: int | None) -> Self:
        manifest = model.manifest
        return cls(
            name=manifest.name,
            version=manifest.version,
            pinned=pinned,
            versions=VersionDetails.of(versions),
            task=manifest.architecture.task,
            channels=manifest.preprocessing.channels,
            engine=model.engines[0].name,
            engine_why=model.engine_why,
            precision=model.precision,
            precision_why=model.precision_why,
            precisions={precision: {} for precision in manifest.network_precisions}
            | {
                precision: _ap(measured.by(model.engines[0].name) or measured)
                for precision, measured in manifest.precisions.items()
            },
            proofs=Proof.of(manifest),
            devices=list(model.devices),
            max_batch_size=model.lane.max_batch_size,
            max_queue_size=model.max_queue_size,
            labels=dict(enumerate(manifest.class_names, start=1)),
            keypoints=list(manifest.keypoint_names),
            defaults=manifest.defaults,
            object_diameter=manifest.object_diameter,
            preprocessing=manifest.preprocessing,
            provenance=manifest.provenance,
            evaluation=list(manifest.evaluation),
        )


class ModelList(BaseModel):
    default: str = Field(description="name of the model that answers when a request names none")
    aliases: dict[str, str] = Field({}, description="other names for a model, NAME or NAME:VERSION")
    models: list[ModelDetails]
    refused: dict[str, list[VersionDetails]] = Field(
        {}, description="models of which no version is served, by name, with the reasons"
    )


class ModelReference(BaseModel):
    name: str
    version: int
    precision: Precision = Field(description="what its network computed in")


class AppliedIntensity(BaseModel):
    """The window that was scaled to 8 bits, in the file's own values."""

    mode: AppliedMode = Field(description="`declared`: the range or the bits that the file states")
    low: float = Field(description="became black")
    high: float = Field(description="became white")
    not_finite: int | None = Field(None, description="values that were NaN or infinite; missing if there were none")


AxisName = Literal["page", "z", "t", "channel"]


class PlaneIndex(BaseModel):
    """One of several planes."""

    index: int = Field(description="counted from 0")
    of: int = Field(description="how many there are")


class TakenChannel(PlaneIndex):
    """One of the file's channels."""

    intensity: AppliedIntensity | None = Field(None, description="as the image's, of this channel alone")


class StatedPixelSize(BaseModel):
    """Micrometers from one pixel to the next."""

    x: float
    y: float
    source: PixelSizeSource = Field(
        description="who states it: the request, the file's OME-XML, ImageJ, or TIFF's resolution"
    )


class ImageSize(BaseModel):
    """Pixels of the image as seen, EXIF orientation applied."""

    width: int
    height: int
    intensity: AppliedIntensity | None = Field(
        None,
        description="Missing when the image had 8 bits and they were taken as they are; of channels each has its own.",
    )
    channels: list[TakenChannel | None] | None = Field(
        None,
        description="Which of the file's channels each input of the network was, null for black. Missing where the "
        "image was taken as gray or RGB.",
    )
    plane: dict[AxisName, PlaneIndex] | None = Field(
        None, description="Which of the file's planes was seen, by axis; missing where it has only one."
    )
    pixel_size_um: StatedPixelSize | None = Field(
        None, description="Missing where neither the request nor the file states it beyond doubt."
    )
    tiles: int | None = Field(None, description="How many tiles the image was seen in; missing where it was seen whole")
    scale: float | None = Field(
        None, description="What it was resized by, where `scale` or `object_diameter` asked for that; else missing."
    )


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
                "model": {"name": "nuclei", "version": 1, "precision": "f32"},
                "image": {"width": 8, "height": 4},
                "boxes": [[1.0, 1.0, 4.0, 3.0]],
                "labels": ["nucleus"],
                "label_ids": [1],
                "scores": [0.98],
                "masks": [{"size": [4, 8], "counts": "522000?"}],
                "truncated": False,
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
    truncated: bool = Field(
        description="Whether a limit cut detections off, or may have: `max_detections`, or as many as the network "
        "gives for an image or a tile."
    )
    timing_ms: TimingMs


class CocoResult(BaseModel):
    """An entry of COCO's results format."""

    image_id: int
    category_id: int = Field(description="the label id")
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height")
    score: float
    segmentation: CompressedRLE | UncompressedRLE | list[list[float]] | None = Field(
        None, description="as `masks` says; polygons are outer rings"
    )
    keypoints: list[float] | None = Field(None, description="x, y, score of each in a row")


class ProblemBody(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="a URN that never changes for one kind of error, or about:blank")
    title: str
    status: int
    detail: str


class BatchItem(BaseModel):
    """What became of one image: `prediction` if `status` is 200, else `problem`."""

    file: str = Field(description="the part's filename")
    status: int
    image: ImageSize | None = Field(None, description="of COCO results: as in a `Prediction`")
    truncated: bool | None = Field(None, description="of COCO results: as in a `Prediction`")
    prediction: Prediction | list[CocoResult] | None = None
    problem: ProblemBody | None = None


class BatchPrediction(BaseModel):
    answers: list[BatchItem] = Field(description="in the order of the images")


class PlaneItem(BaseModel):
    """What became of one plane: `prediction` if `status` is 200, else `problem`."""

    plane: dict[AxisName, PlaneIndex] = Field(description="as `plane` of an image; empty where the file has only one")
    status: int
    image: ImageSize | None = Field(None, description="of COCO results: as in a `Prediction`")
    truncated: bool | None = Field(None, description="of COCO results: as in a `Prediction`")
    prediction: Prediction | list[CocoResult] | None = None
    problem: ProblemBody | None = None


class PlanesPrediction(BaseModel):
    """The answer to `planes=all`."""

    answers: list[PlaneItem] = Field(description="in the order of the planes in the file")


class ProgressLine(BaseModel):
    """How many of the tiles (before their picture's head), planes or images are done, and `of` how many. The same again
    where there is no news for a while."""

    progress: dict[Literal["tiles", "planes", "images", "of"], int]


class HeadLine(BaseModel):
    """What stands around one image's detections. Their lines follow, in falling score."""

    model: ModelReference
    image: ImageSize
    detections: int = Field(description="how many lines follow before the end")
    columns: list[Literal["boxes", "labels", "label_ids", "scores", "masks", "keypoints"]] = Field(
        description="which a `Prediction` would have, in its order; a detection has one value of each"
    )
    truncated: bool
    timing_ms: TimingMs


class DetectionLine(BaseModel):
    """One detection, its members as in the columns of a `Prediction`."""

    box: tuple[float, float, float, float]
    label: str
    label_id: int
    score: float
    mask: CompressedRLE | UncompressedRLE | list[list[list[float]]] | None = None
    keypoints: list[tuple[float, float, float]] | None = None


class SeveralLine(BaseModel):
    """The head of an answer of several planes or images, each of which is a line as in the JSON answer."""

    model: ModelReference
    planes: int | None = None
    images: int | None = None


class EndLine(BaseModel):
    """The last line of an answer that is whole, with what its head counts."""

    end: dict[Literal["detections", "planes", "images"], int]


class StreamProblem(ProblemBody):
    """A problem after the status was sent."""

    retry_after: int | None = Field(None, description="seconds to wait before another try")


class ErrorLine(BaseModel):
    """The last line of an answer that failed after its first line. Without this and `end` it was cut off."""

    error: StreamProblem
