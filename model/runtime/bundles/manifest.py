"""`manifest.json`: everything that is known of one version of one model, checked when it is read and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from model.architecture import ArchitectureConfig
from model.runtime.preprocess import Preprocessing

FORMAT: Final = 1
"""The newest manifest format that this release reads, and the one that it writes."""

NETWORK_FILE: Final = "model.onnx"
"""The file that every bundle has."""

INT8_FILE: Final = "model.int8.onnx"
"""The same network with layers that compute in INT8, where a bundle has it beside `NETWORK_FILE`."""

NETWORK_FILES: Final = (NETWORK_FILE, INT8_FILE)

Precision = Literal["f32", "f16", "bf16", "int8"]
"""What a network's layers compute in. f16 and bf16 need no file of their own: an engine rounds the weights of
`NETWORK_FILE`, and what it computes."""

PrecisionChoice = Literal[Precision, "auto"]

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
Threshold = Annotated[float, Field(ge=0, lt=1)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServingDefaults(_Record):
    """What a request that does not say otherwise gets."""

    score_threshold: float = Field(0.5, ge=0, lt=1, description="detections must score more")
    score_thresholds: Mapping[str, Threshold] = Field(
        default_factory=dict, description="class name -> the score that its detections must exceed instead"
    )
    max_detections: int = Field(100, ge=1, description="most detections of an image")


class Provenance(_Record):
    """Where the weights come from."""

    dataset: str = Field(min_length=1, description="what it was trained on")
    license: str = Field(min_length=1, description="license of that data, and so of the weights")
    images: int | None = Field(None, ge=0, description="training images")
    instances: int | None = Field(None, ge=0, description="annotated objects in them")
    fingerprint: str | None = Field(None, description="SHA-256 of what the training images and annotations contain")
    run: str | None = Field(None, description="id of the training run; versions of one run have the same")
    recipe: str | None = Field(None, description="training recipe")
    iterations: int | None = Field(None, ge=0, description="optimizer steps")
    seed: int | None = None
    initial_weights: str | None = Field(None, description="published weights that the training began from")
    versions: Mapping[str, str] = Field(default_factory=dict, description="library -> version that trained it")


class Evaluation(_Record):
    """Figures of one evaluation, with the command that gives them again."""

    dataset: str
    images: int = Field(ge=0)
    command: str
    engine: str
    metrics: Mapping[str, FiniteFloat]


class ExportCheck(_Record):
    """How far the exported file is from the trained network, measured before the bundle was published."""

    images: int = Field(ge=1)
    batch_sizes: tuple[int, ...]
    max_box_error: FiniteFloat = Field(ge=0, description="pixels of the network input")
    max_score_error: FiniteFloat = Field(ge=0)
    max_mask_error: FiniteFloat | None = Field(None, ge=0, description="of a probability")
    max_keypoint_error: FiniteFloat | None = Field(None, ge=0, description="of a heatmap logit")
    ap_deltas: Mapping[str, FiniteFloat] = Field(default_factory=dict, description="metric -> exported minus trained")


class EngineEvaluation(Evaluation):
    """COCO figures of the network in one precision, as one engine computes it."""

    file: FileName = Field(description="what was computed")
    library: str = Field(description="what computed it, with its version")
    processor: str
    export_check: ExportCheck | None = Field(
        None, description="None: the manifest's own is that of model.onnx, and f16 is compared by its AP"
    )
    padded_to: tuple[int, ...] = Field(
        (),
        exclude_if=lambda sides: not sides,  # as of precisions below
        description="pixels: each side of an image was padded to the next of these, in releases in which that changed "
        "answers; empty: to the next multiple of preprocessing.bucket_step",
    )


class PrecisionEvaluation(EngineEvaluation):
    """The same of the engine that was measured first, and of those that compute the same file otherwise; all figures of
    a bundle are of the same images."""

    calibration_images: int | None = Field(None, ge=1, description="training images that INT8's scales come from")
    head_room: FiniteFloat | None = Field(
        None,
        ge=0,
        exclude_if=lambda room: room is None,  # as of precisions below
        description="of f16: its largest number, 65,504, over the largest between two layers on these images",
    )
    other_engines: tuple[EngineEvaluation, ...] = Field(
        (),
        exclude_if=lambda others: not others,  # as of precisions below
        description="the same of other engines; one that is not here was not measured",
    )

    @model_validator(mode="after")
    def _engines_differ(self) -> Self:
        engines = [self.engine, *(other.engine for other in self.other_engines)]
        if twice := sorted({engine for engine in engines if engines.count(engine) > 1}):
            raise ValueError(f"{', '.join(twice)} has figures twice; which hold cannot be told")
        return self

    def by(self, engine: str) -> EngineEvaluation | None:
        """The figures of this engine; None where it was not measured, for which another's are no proof."""
        return next((one for one in (self, *self.other_engines) if one.engine == engine), None)


class Unmeasured(_Record):
    """What could not be measured when a bundle was published."""

    precision: Precision
    engine: str
    why: str = Field(min_length=1, description="in words that go on after 'as'")


class Trades(_Record):
    """What an export gave up for speed, and what that cost in COCO AP on the validation split."""

    int8: bool = Field(False, description="convolutions and linear layers compute in INT8")
    calibration_images: int | None = Field(None, ge=1, description="training images that INT8's scales come from")
    proposals: int | None = Field(None, ge=1, description="proposals an image after NMS, fewer than in training")
    min_size: int | None = Field(None, ge=1, description="shorter side of the network input, less than in training")
    ap_deltas: Mapping[str, FiniteFloat] = Field(description="metric -> exported minus the network as trained")
    other_engines: Mapping[str, Mapping[str, FiniteFloat]] = Field(
        default_factory=dict,
        exclude_if=lambda others: not others,  # as of precisions below
        description="engine -> the same by it, of INT8, which each computes otherwise; ap_deltas are ONNX Runtime's",
    )

    def by(self, engine: str) -> Mapping[str, float]:
        """`ap_deltas` as this engine has them; empty where it was not measured."""
        return self.ap_deltas if engine == "onnx" else self.other_engines.get(engine, {})


class FileRecord(_Record):
    """What a published file must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ManifestDraft(_Record):
    """What the exporter knows of a model; publishing adds the rest."""

    architecture: ArchitectureConfig
    class_names: tuple[str, ...] = Field(description="names of the labels 1, 2, ...: index i is label i + 1")
    keypoint_names: tuple[str, ...] = ()
    preprocessing: Preprocessing
    defaults: ServingDefaults = ServingDefaults()
    object_diameter: FiniteFloat | None = Field(
        None,
        gt=0,
        exclude_if=lambda diameter: diameter is None,  # as of precisions below
        description="median diameter of the training objects, in pixels of what the network saw; None: not known",
    )
    provenance: Provenance
    evaluation: tuple[Evaluation, ...] = ()
    export_check: ExportCheck | None = None
    trades: Trades | None = Field(None, description="None: nothing was given up")
    precisions: Mapping[Precision, PrecisionEvaluation] = Field(
        default_factory=dict,
        exclude_if=lambda figures: not figures,  # releases of before it read what has none, and hash it to the same
        description="precision -> its figures; empty: none was compared with another",
    )
    unmeasured: tuple[Unmeasured, ...] = Field(
        (),
        exclude_if=lambda missing: not missing,  # as of precisions
        description="what precisions would have, if the machine that published could have measured it",
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        classes = self.architecture.num_classes - 1
        if len(self.class_names) != classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, but the architecture has {classes} classes besides "
                f"the background; give one name for each"
            )
        if self.precisions and "f32" not in self.precisions:
            raise ValueError("precisions has no f32, with which the others are compared")
        for one in self.unmeasured:
            known = self.precisions.get(one.precision)
            if known is not None and known.by(one.engine) is not None:
                raise ValueError(f"unmeasured has {one.precision} by {one.engine}, of which precisions has figures")
        if self.preprocessing.channels != self.architecture.channels:
            raise ValueError(
                f"preprocessing.channels is {self.preprocessing.channels} and architecture.channels "
                f"{self.architecture.channels}; give the same number for both"
            )
        unknown = sorted(self.defaults.score_thresholds.keys() - set(self.class_names))
        if unknown:
            raise ValueError(
                f"defaults.score_thresholds names {', '.join(map(repr, unknown))}, which class_names does not have; "
                f"leave them out or correct them"
            )
        keypoints = self.architecture.num_keypoints if self.architecture.has_keypoints else 0
        if len(self.keypoint_names) != keypoints:
            raise ValueError(
                f"keypoint_names has {len(self.keypoint_names)} names, but the model predicts {keypoints} keypoints"
            )
        return self

    @property
    def score_thresholds(self) -> NDArray[np.float32]:
        """What detections must score more than where nobody says otherwise, float32 by label id; that of 0, the
        background, is no label's."""
        defaults = self.defaults
        own = [defaults.score_thresholds.get(name, defaults.score_threshold) for name in self.class_names]
        return np.array([defaults.score_threshold, *own], np.float32)


class Manifest(ManifestDraft):
    """`manifest.json`. A file's name is a plain name: nothing outside the bundle's folder can be named."""

    format: int = Field(FORMAT, ge=1)
    name: ModelName
    version: int = Field(ge=1)
    created: AwareDatetime
    files: Mapping[FileName, FileRecord]

    @property
    def sha256(self) -> str:
        """Of everything but `files`, which holds the hash of a file that holds this one.

        That is the SHA-256 of manifest.json without `files`, with keys sorted and no spaces, as UTF-8.
        """
        content = json.loads(self.model_dump_json(exclude={"files"}))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @model_validator(mode="after")
    def _has_networks(self) -> Self:
        if NETWORK_FILE not in self.files:
            raise ValueError(f"files has no {NETWORK_FILE}, which every bundle needs")
        if INT8_FILE in self.files and "int8" not in self.precisions:
            raise ValueError(f"files has {INT8_FILE}, but precisions does not say how well it does: export it again")
        if "int8" in self.precisions and INT8_FILE not in self.files:
            raise ValueError(f"precisions has int8, but files has no {INT8_FILE}")
        return self

    @property
    def network_precisions(self) -> tuple[Precision, ...]:
        """What its files compute in: "int8" alone where `NETWORK_FILE` itself was quantized. bf16 is the engine's."""
        if self.trades is not None and self.trades.int8:
            return ("int8",)
        return ("f32", "int8") if INT8_FILE in self.files else ("f32",)
