"""One image's answer as values: NumPy columns, and masks in whatever form a program wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.images.picture import PixelSize

# `model.runtime.kernels.rle` is imported where it is used: it loads numba, which takes longer than many a request.


@dataclass(frozen=True, slots=True)
class AppliedIntensity:
    """How the server made 8 bits of an image's values: `low` became black and `high` white, in the file's own values.

    mode: "auto", "declared" (by the file), or what was asked for. not_finite: values that were NaN or infinite.
    """

    mode: str
    low: float
    high: float
    not_finite: int = 0

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Self:
        return cls(said["mode"], said["low"], said["high"], said.get("not_finite", 0))


@dataclass(frozen=True, slots=True)
class TakenChannel:
    """One of a file's `of` channels, from 0, that an input of the network was, and how its values became 8 bits."""

    index: int
    of: int
    intensity: AppliedIntensity | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The detections in one image, columns side by side in falling score.

    precision: what the network computed in, "f32", "bf16" or "int8"; None from servers that do not say.
    boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels of the image as seen, its EXIF orientation applied.
    scores: float32 [N]. label_ids: int64 [N], from 1; labels: their names.
    masks: N masks of the image's size, whatever form they were sent in; None when the model has none, or none were
        asked for.
    keypoints: float32 [N, K, 3] as (x, y, the heatmap's logit), or None when the model has none.
    width, height: of the image as seen, in pixels. timing_ms: milliseconds by stage.
    intensity: how its values became 8 bits; None when it had 8 bits and they were taken as they are, or when each
        channel has its own.
    channels: which of the file's channels each input of the network was, None for black; empty when the image was taken
        as gray or RGB.
    plane: which of the file's planes was seen, from 0, by the axis page, z, t or channel; empty when it has only one.
    truncated: whether a limit cut detections off, or may have.
    pixel_size: micrometers from one pixel to the next, and who states it; None where nobody does.
    scale: what the image was resized by, where that was asked for.
    json: the server's answer.
    """

    model: str
    version: int
    precision: str | None
    width: int
    height: int
    intensity: AppliedIntensity | None
    channels: tuple[TakenChannel | None, ...]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    label_ids: NDArray[np.int64]
    masks: tuple[RLE, ...] | None
    keypoints: NDArray[np.float32] | None
    timing_ms: Mapping[str, float]
    plane: Mapping[str, int]
    truncated: bool
    pixel_size: PixelSize | None
    scale: float | None
    json: dict[str, Any]

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Self:
        """From the JSON of `POST /predict`, which keeps a place in it."""
        width, height = answer["image"]["width"], answer["image"]["height"]
        masks, keypoints = answer.get("masks"), answer.get("keypoints")
        pixel_size = answer["image"].get("pixel_size_um")
        count = len(answer["scores"])
        return cls(
            model=answer["model"]["name"],
            version=answer["model"]["version"],
            precision=answer["model"].get("precision"),
            width=width,
            height=height,
            intensity=_intensity(answer["image"]),
            channels=tuple(map(_channel, answer["image"].get("channels", ()))),
            boxes=np.array(answer["boxes"], np.float32).reshape(count, 4),
            scores=np.array(answer["scores"], np.float32),
            labels=tuple(answer["labels"]),
            label_ids=np.array(answer["label_ids"], np.int64),
            masks=None if masks is None else tuple(_rle(mask, height, width) for mask in masks),
            keypoints=None if keypoints is None else _keypoints(keypoints),
            timing_ms=answer["timing_ms"],
            plane={axis: which["index"] for axis, which in answer["image"].get("plane", {}).items()},
            truncated=answer.get("truncated", False),  # servers of before tiling did not say
            pixel_size=None if pixel_size is None else PixelSize(**pixel_size),
            scale=answer["image"].get("scale"),
            json=answer,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Detection `index`'s mask, bool [H, W]. ValueError when there are no masks; IndexError."""
        from model.runtime.kernels.rle import decode

        return decode(self._masks()[index])

    def masks_array(self) -> NDArray[np.bool_]:
        """All masks, bool [N, H, W]: a byte for each pixel of each. ValueError when there are none."""
        from model.runtime.kernels.rle import decode

        stack = np.zeros((len(self), self.height, self.width), np.bool_)
        for layer, mask in zip(stack, self._masks(), strict=True):
            layer[...] = decode(mask)
        return stack

    def mask_areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 [N], without decoding them. ValueError when there are none."""
        from model.runtime.kernels.rle import area

        return np.array([area(mask) for mask in self._masks()], np.int64)

    def to_pycocotools(self) -> list[dict[str, Any]]:
        """The masks as `pycocotools.mask` takes them: {"size": [H, W], "counts": bytes}. ValueError when there are
        none.
        """
        return [{"size": list(mask.size), "counts": mask.counts} for mask in self._masks()]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Entries of COCO's results format, as the server's own `format=coco` gives them.

        `bbox` is x, y, width, height, `category_id` the label id. `segmentation` has the form that the masks were sent
        in; of polygons it is the outer rings alone, as COCO's have no holes.
        """
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(self.json["label_ids"], boxes.tolist(), self.json["scores"], strict=True)
        ]
        for entry, mask in zip(entries, self.json.get("masks") or (), strict=self.masks is not None):
            entry["segmentation"] = mask if isinstance(mask, dict) else [part[0] for part in mask]
        for entry, points in zip(entries, self.json.get("keypoints") or (), strict=self.keypoints is not None):
            entry["keypoints"] = [value for point in points for value in point]
        return entries

    def to_supervision(self) -> Any:
        """A `supervision.Detections` with the masks, if there are any, and `class_name` in its data.

        ImportError when supervision is not installed.
        """
        try:
            supervision = import_module("supervision")
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            raise ImportError("to_supervision() needs supervision: .venv/bin/pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes,
            mask=None if self.masks is None else self.masks_array(),
            confidence=self.scores,
            class_id=self.label_ids,
            data={"class_name": np.array(self.labels, np.str_)},
        )

    def to_detections(self) -> Detections:
        """The server's own value, for the functions of `model.runtime`."""
        masks = None if self.masks is None else list(self.masks)
        return Detections(self.boxes, self.scores, self.label_ids, masks, self.keypoints)

    def _masks(self) -> tuple[RLE, ...]:
        if self.masks is None:
            raise ValueError("the answer has no masks: the model has none, or it was asked with masks='none'")
        return self.masks


def _intensity(said: dict[str, Any]) -> AppliedIntensity | None:
    """Of an image, or of one of its channels."""
    return AppliedIntensity.from_json(said["intensity"]) if "intensity" in said else None


def _channel(said: dict[str, Any] | None) -> TakenChannel | None:
    return None if said is None else TakenChannel(said["index"], said["of"], _intensity(said))


def _keypoints(points: list[Any]) -> NDArray[np.float32]:
    array = np.array(points, np.float32)
    return array.reshape(len(points), -1, 3) if points else np.zeros((0, 0, 3), np.float32)


def _rle(mask: Any, height: int, width: int) -> RLE:
    """A mask as the server sent it, in any of its forms."""
    if isinstance(mask, dict) and isinstance(mask["counts"], str):
        return RLE((height, width), mask["counts"].encode())
    from model.runtime.kernels.rle import encode_bitmap, from_uncompressed

    if isinstance(mask, dict):
        return from_uncompressed(mask["counts"], (height, width))
    return encode_bitmap(_filled(mask, height, width))


def _filled(polygons: list[list[list[float]]], height: int, width: int) -> NDArray[np.bool_]:
    """Polygons along pixel edges, holes included, as bool [H, W]: exact.

    A pixel is inside when an odd number of vertical edges lies to the left of it.
    """
    crossed = np.zeros((height, width + 1), np.bool_)
    for ring in (ring for part in polygons for ring in part):
        corners = np.array(ring).reshape(-1, 2).astype(np.int64)
        for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if x == next_x:
                crossed[min(y, next_y) : max(y, next_y), x] ^= True
    filled: NDArray[np.bool_] = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return filled
