"""What a request may wish for: the query of /predict and /predict/batch, and what other protocols share with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from model.architecture import ArchitectureConfig
from model.runtime.analysis.file_types import FILE_TYPES, FileFormat
from model.runtime.images.channels import MOST_CHANNELS
from model.runtime.images.picture import LEAST_PIXEL, MOST_PIXEL, PixelSize
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.values.intensity import Intensity, Mode
from model.runtime.preprocess import Preprocessing, scaled
from model.runtime.tiling import LEAST_OVERLAP, OVERLAP, Tile, TooManyTiles, plan_tiles, tile_side
from service.http.problems import INVALID_PARAMETER, Problem
from service.models.catalog import ServedModel
from service.scheduling.priority import Priority

MaskFormat = Literal["rle", "rle_uncompressed", "polygon", "none"]
AnswerFormat = Literal["maskserve", "coco"]
MAX_TIMEOUT_MS = 3_600_000
MAX_VERSION = 2**31
MAX_PLANE = 2**31
MOST_DIGITS = 9
"""Of a channel's number."""
LEAST_SCALE, MOST_SCALE = 0.05, 20.0
"""Beyond these nothing is left to be seen of a picture, or nothing is added to it."""


MOST_IN_TILES = 100_000
"""Detections of a picture in tiles where the request names no limit."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a large picture is cut: "auto", "off" or the tiles' side in pixels; None overlaps by a third. Where a scale
    is asked for, these are pixels at that scale."""

    tile: str | int
    overlap: int | None = None

    def plan(
        self,
        architecture: ArchitectureConfig,
        preprocessing: Preprocessing,
        size: tuple[int, int],
        scale: float | None = None,
    ) -> list[Tile]:
        """The tiles of a picture of `size` (height, width); none where it is seen whole. Raises Problem where there
        are too many, or the network could not see it, or them, at `scale`."""
        side = tile_side(architecture, preprocessing, size, scale) if self.tile == "auto" else self.tile
        tiles: list[Tile] = []
        if isinstance(side, int):
            overlap = side // OVERLAP if self.overlap is None else max(self.overlap, LEAST_OVERLAP)
            overlap = min(overlap, side // 2)
            try:
                tiles = plan_tiles(size, side, overlap, scale=scale or 1.0)
            except TooManyTiles as error:
                raise invalid_parameter("tile", f"{error}; ask for larger ones, or for less overlap") from None
        if scale is not None:
            seen = [scaled((tile.height, tile.width), scale) for tile in tiles] or [scaled(size, scale)]
            _require_seen(max(map(max, seen)), preprocessing.max_size, self.tile)
        return tiles if len(tiles) > 1 else []


def _require_seen(longest: int, most: int, tile: str | int) -> None:
    """That the network sees what is so many pixels long at the scale asked for, and `max_size` does not shrink it."""
    if longest > most:
        what = "the image is" if tile == "off" else "tiles are"
        message = (
            f"{what} {longest} pixels long at the scale asked for, and the model sees at most {most} (max_size); ask "
            f"for tile=auto, or for a smaller scale"
        )
        raise invalid_parameter("tile", message)


def invalid_parameter(parameter: str, message: str) -> Problem:
    return Problem(
        INVALID_PARAMETER, f"{parameter}: {message}.", extra={"errors": [{"parameter": parameter, "message": message}]}
    )


@dataclass(frozen=True, slots=True)
class Options:
    """One request's wishes, checked against the model: label ids or None for all.

    score_threshold: in [0, 1], what the network need not find. score_thresholds: those of the single labels, float32 by
    label id, none below it; None if they are all alike. max_detections: None where the request leaves it to the model.
    """

    score_threshold: float
    score_thresholds: NDArray[np.float32] | None
    max_detections: int | None
    label_ids: frozenset[int] | None
    masks: MaskFormat
    intensity: Intensity
    tiling: Tiling
    plane: PlaneChoice
    scale: float | None
    """What pictures are resized by; None: as the model does it."""
    pixel_size: PixelSize | None = None
    """Where the request states it, whatever the file says."""


class PredictParameters(BaseModel):
    """What to detect. Unknown names are refused: a misspelled threshold must not silently do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Detections must score more than this. Default: the model's, which may differ by label.",
    )
    max_detections: int | None = Field(
        None, ge=1, le=100_000, description="At most this many, the best. Default: the model's."
    )
    labels: list[str] = Field(
        [], description="Keep only these labels, by name: repeated or separated by commas.", examples=[["nucleus"]]
    )
    masks: MaskFormat = Field(
        "rle",
        description="`rle`: COCO's compressed RLE, `rle_uncompressed`: its run lengths as numbers, `polygon`: "
        "polygons, all parts and holes, `none`: leave masks out, which saves their time.",
    )
    intensity: Mode | None = Field(
        None,
        description="How values become 8 bits. `full-range`: all that the file's type can hold, or from `low` to "
        "`high`; `min-max`: from the image's least to its largest; `percentile`: from `low` to `high` percent, 0.1 and "
        "99.9 if not given; `auto`: 8 bits stay as they are, deeper values are scaled by the range that the file "
        "declares, or by the depth that holds them. Default: the model's, which is `auto` unless trained otherwise.",
    )
    low: FiniteFloat | None = Field(
        None, description="Becomes black: a value of the file, also without `intensity`, or with `percentile` percent."
    )
    high: FiniteFloat | None = Field(None, description="Becomes white, likewise.")
    page: int | None = Field(
        None, ge=0, le=MAX_PLANE, description="Which plane of a TIFF, in the file's order, from 0. Default: the first."
    )
    z: int | None = Field(
        None, ge=0, le=MAX_PLANE, description="Which focal plane of an OME-TIFF or ImageJ stack, from 0."
    )
    t: int | None = Field(None, ge=0, le=MAX_PLANE, description="Which point of time of such a stack, from 0.")
    channel: int | None = Field(
        None,
        ge=0,
        le=MAX_PLANE,
        description="Which channel of a stack, from 0; of an RGB image, 0 is red, 1 green and 2 blue. Seen as gray.",
    )
    channels: list[str] = Field(
        [],
        description="Which of the file's channels, from 0, each input of the network is, separated by commas or "
        "repeated, an empty one for black: `2,0,` of a stack for a network of red, green and blue, `2,1,0` for BGR. "
        "Each becomes 8 bits by itself. Default: gray and RGB as they are; for a network with other than 1 or 3 "
        "channels, all of the file's, which must be as many.",
        examples=[["2,1,0"]],
    )
    tile: str = Field(
        "auto",
        pattern=r"^(auto|off|[1-9][0-9]{2,3})$",
        description="Large pictures are seen in overlapping tiles and answered as one. `auto`: those that the model "
        "would otherwise see smaller than it was trained; `off`: never; a number from 100 to 9999: tiles of that many "
        "pixels a side.",
    )
    overlap: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Pixels that tiles have in common: longer than most objects, so that each is whole in some tile. "
        "Less than 16 counts as 16, for the halves of a cut object are told by what two tiles show of it, more than "
        "half a tile as half. Default: a third of the tile.",
    )
    scale: FiniteFloat | None = Field(
        None,
        ge=LEAST_SCALE,
        le=MOST_SCALE,
        description="Resize the picture by this factor before the network sees it, whatever the model would do: 0.5 "
        "for objects twice as large as those that it was trained with, 1 for the picture's own pixels. `tile` and "
        "`overlap` are pixels at that scale. Answers stay in pixels of the picture.",
    )
    object_diameter: FiniteFloat | None = Field(
        None,
        gt=0,
        le=100_000,
        description="In place of `scale`: about how many pixels across an object is in the picture. The picture is "
        "resized so that the network sees such objects as large as it saw them in training (`object_diameter` of "
        "`/models`).",
    )

    @field_validator("object_diameter")
    @classmethod
    def _one_scale(cls, diameter: float | None, others: ValidationInfo) -> float | None:
        if diameter is not None and others.data.get("scale") is not None:
            raise PydanticCustomError("object_diameter", "contradicts scale, which it gives: leave one of the two out")
        return diameter

    def options(self, model: ServedModel) -> Options:
        """Fill in the model's defaults. Raises Problem: a label is unknown, or `low` and `high` contradict the rest."""
        defaults = model.manifest.defaults
        thresholds = None if self.score_threshold is not None else model.score_thresholds
        lowest = defaults.score_threshold if thresholds is None else float(thresholds[1:].min())
        return Options(
            lowest if self.score_threshold is None else self.score_threshold,
            thresholds,
            self.max_detections,
            self._label_ids(model),
            self.masks,
            self._intensity(model),
            Tiling(int(self.tile) if self.tile.isdecimal() else self.tile, self.overlap),
            self._plane(model),
            self._scale(model),
        )

    def _scale(self, model: ServedModel) -> float | None:
        if self.object_diameter is None:
            return self.scale
        trained = model.manifest.object_diameter
        if trained is None:
            raise invalid_parameter(
                "object_diameter",
                f"{model.name}/{model.version} does not say how large objects were in its training; give scale, or "
                f"measure it: maskserve export --bundle",
            )
        scale = trained / self.object_diameter
        if not LEAST_SCALE <= scale <= MOST_SCALE:
            raise invalid_parameter(
                "object_diameter",
                f"{self.object_diameter:g} pixels, where the model was trained with {trained:g}, are a scale of "
                f"{scale:g}; it may be {LEAST_SCALE:g} to {MOST_SCALE:g}",
            )
        return scale

    def _plane(self, model: ServedModel) -> PlaneChoice:
        try:
            channels = _channels(self.channels)
            inputs = model.manifest.preprocessing.channels
            return PlaneChoice(self.page, self.z, self.t, self.channel, channels, inputs)
        except ValueError as contradiction:
            parameter = "channels" if self.channels else "channel"
            raise invalid_parameter(parameter, str(contradiction)) from None

    def _intensity(self, model: ServedModel) -> Intensity:
        if self.intensity is None and self.low is None and self.high is None:
            return model.manifest.preprocessing.intensity
        try:
            return Intensity(mode=self.intensity or "full-range", low=self.low, high=self.high)
        except ValidationError as contradiction:
            message = contradiction.errors()[0]["msg"].removeprefix("Value error, ")
            raise invalid_parameter("intensity", message) from None

    def _label_ids(self, model: ServedModel) -> frozenset[int] | None:
        if not self.labels:
            return None
        names: list[str] = []
        for value in self.labels:  # a label's own name may hold a comma
            names += [value] if value in model.label_ids else [part.strip() for part in value.split(",")]
        unknown = sorted({name for name in names if name not in model.label_ids})
        if unknown:
            known = list(model.label_ids)
            raise Problem(
                INVALID_PARAMETER,
                f"labels: {model.manifest.name} has no label {', '.join(map(repr, unknown))}; "
                f"it knows {', '.join(map(repr, known[:20]))}{' and more (GET /models)' if len(known) > 20 else ''}.",
                extra={"unknown_labels": unknown, "known_labels": known},
            )
        return frozenset(label_id for name in names for label_id in model.label_ids[name])


def _channels(values: list[str]) -> tuple[int | None, ...]:
    """Of numbers separated by commas or repeated; None for an empty one. Raises ValueError for anything else."""
    names = [name.strip() for value in values for name in value.split(",", MOST_CHANNELS)]
    if len(names) > MOST_CHANNELS:
        raise ValueError(f"no model takes more than {MOST_CHANNELS}: name fewer")
    for name in names:
        if name and not (name.isascii() and name.isdecimal() and len(name) <= MOST_DIGITS):
            raise ValueError(f"{name[:20]!r} is no channel: give numbers from 0 with commas between them, as in 2,0,1")
    return tuple(int(name) if name else None for name in names)


class PredictionQuery(PredictParameters):
    """What both routes take."""

    model: str | None = Field(None, description="Model name. Default: the server's.")
    version: int | None = Field(
        None, ge=1, le=MAX_VERSION, description="Model version. Default: the one that is pinned, or the newest."
    )
    timeout_ms: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_MS,
        description="Milliseconds from the complete upload to the answer; then 504. The server's own limit holds if it "
        "is shorter.",
    )
    pixel_size_um: FiniteFloat | None = Field(
        None,
        ge=LEAST_PIXEL,
        le=MOST_PIXEL,
        description="Micrometers from one pixel to the next, for areas and diameters in µm. Default: what the file "
        "states beyond doubt (OME-XML, ImageJ, TIFF's resolution); else there are none.",
    )
    image_id: int = Field(
        0, ge=0, le=2**53, description="`image_id` in COCO results; in a batch that of the first image."
    )

    def options(self, model: ServedModel) -> Options:
        options = super().options(model)
        if self.pixel_size_um is None:
            return options
        return replace(options, pixel_size=PixelSize(self.pixel_size_um, self.pixel_size_um, "request"))


class PredictQuery(PredictionQuery):
    """`POST /predict?...`."""

    priority: Priority = Field(
        Priority.INTERACTIVE,
        description="`interactive` goes first; `bulk` gets on, but gives way. Each has a queue of its own. With "
        "`planes` the default is `bulk`.",
    )
    format: AnswerFormat | FileFormat = Field(
        "maskserve",
        description="`maskserve`: columns side by side; `coco`: a list of COCO results. Files for analysis tools: "
        "`geojson` (QuPath), `imagej` (a ZIP of ROIs), `labels` (a TIFF of the objects' numbers) and `csv` (a table of "
        "measurements).",
    )
    planes: Literal["all"] | None = Field(
        None,
        description="`all`: an answer for each plane of a TIFF that `z`, `t` and `channel` leave open, in the file's "
        "order. Not with `page`, nor with files for analysis tools, which are of one plane.",
    )

    @model_validator(mode="before")
    @classmethod
    def _planes_are_bulk(cls, asked: Any) -> Any:
        if isinstance(asked, dict) and asked.get("planes") is not None:
            return {"priority": Priority.BULK, **asked}
        return asked

    @field_validator("planes")
    @classmethod
    def _not_contradictory(cls, planes: str | None, others: ValidationInfo) -> str | None:
        if others.data.get("page") is not None:
            raise PydanticCustomError("planes", "contradicts page, which is one of them: leave one of the two out")
        if others.data.get("format") in FILE_TYPES:
            raise PydanticCustomError(
                "planes",
                "does not go with format={format}, a file of one plane: ask for each by page, or z, t and channel",
                {"format": others.data["format"]},
            )
        return planes

    @property
    def file_format(self) -> FileFormat | None:
        """None where the answer is no file."""
        return None if self.format == "maskserve" or self.format == "coco" else self.format


class BatchQuery(PredictionQuery):
    """`POST /predict/batch?...`."""

    priority: Priority = Field(
        Priority.BULK, description="`bulk` gives way to other requests; `interactive` goes first."
    )
    format: AnswerFormat = Field(
        "maskserve",
        description="`maskserve`: columns side by side; `coco`: a list of COCO results. The files of `/predict` are of "
        "one image: ask for them there.",
    )
