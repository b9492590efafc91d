"""`references.npz`: a few images as the network sees them, and what it answered in float32 before it was published.

Whoever computes the network in another precision, or on another device, can see with them whether the answers are still
the same. The file is optional, NumPy's, and holds arrays alone; the manifest holds its hash as of every file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.bundle import Bundle, DamagedFile
from model.runtime.bundles.manifest import Manifest
from model.runtime.detections import RawDetections

REFERENCES_FILE: Final = "references.npz"

MOST_BYTES: Final = 1 << 28
"""Of the file unpacked. What is published has a few million."""

_MASK_STEPS: Final = 255
"""Probabilities are kept in so many steps."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was found in a batch, as `RawDetections` has it, in less room.

    masks: uint8 [N, M, M], 255 times the probability, or None. peaks: int64 [N, K, 2], (row, column) of the largest
    number of each keypoint's heatmap, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_index: NDArray[np.int64]
    masks: NDArray[np.uint8] | None = None
    peaks: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, raw: RawDetections) -> Answers:
        masks = None if raw.masks is None else (raw.masks * _MASK_STEPS + 0.5).astype(np.uint8)
        peaks = None
        if (maps := raw.keypoint_heatmaps) is not None:
            largest = maps.reshape(*maps.shape[:2], maps.shape[2] * maps.shape[3]).argmax(axis=2)
            peaks = np.stack(np.unravel_index(largest, maps.shape[2:]), axis=2).astype(np.int64)
        return cls(raw.boxes, raw.scores, raw.labels, raw.image_index, masks, peaks)

    def of_image(self, index: int) -> Answers:
        """Those of batch position `index`."""
        rows = self.image_index == index
        masks = None if self.masks is None else self.masks[rows]
        peaks = None if self.peaks is None else self.peaks[rows]
        return Answers(self.boxes[rows], self.scores[rows], self.labels[rows], self.image_index[rows], masks, peaks)


@dataclass(frozen=True, slots=True)
class References:
    """A batch and its answers in float32.

    images: uint8 [B, H, W, C], each in the top left corner, zero elsewhere; sizes: int64 [B, 2], (height, width) of
    each. score_threshold: what all that was found scores more than.
    """

    images: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    score_threshold: float
    answers: Answers

    def __len__(self) -> int:
        return len(self.images)


def to_bytes(references: References) -> bytes:
    """The content of the file; the same for the same references."""
    found = references.answers
    arrays: dict[str, Any] = {
        "images": references.images,
        "sizes": references.sizes,
        "score_threshold": np.array(references.score_threshold),
        **{name: getattr(found, name) for name in Answers.__dataclass_fields__ if getattr(found, name) is not None},
    }
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_references(bundle: Bundle) -> References | None:
    """Those of a bundle; None where it has none, as older ones. Raises DamagedFile, and OSError."""
    if REFERENCES_FILE not in bundle.manifest.files:
        return None
    content = bundle.read(REFERENCES_FILE)
    try:
        return _checked(_arrays(content), bundle.manifest)
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they like of what is no such file
        raise DamagedFile(
            f"{bundle.file(REFERENCES_FILE)} holds no reference images with their answers "
            f"({' '.join(str(error).split())}); export the model again"
        ) from error


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    with ZipFile(BytesIO(content)) as file:
        size = sum(member.file_size for member in file.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"unpacked it has {size} bytes, of at most {MOST_BYTES}")
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _checked(arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> References:
    """Raises ValueError where the arrays are no batch with its answers, as the manifest's network gives them."""
    architecture = manifest.architecture
    images = _array(arrays, "images", np.uint8, "B", "H", "W", manifest.preprocessing.channels)
    sizes = _array(arrays, "sizes", np.int64, len(images), 2)
    boxes = _array(arrays, "boxes", np.float32, "N", 4)
    found, keypoints = len(boxes), architecture.num_keypoints
    answers = Answers(
        boxes,
        _array(arrays, "scores", np.float32, found),
        _array(arrays, "labels", np.int64, found),
        _array(arrays, "image_index", np.int64, found),
        _array(arrays, "masks", np.uint8, found, "M", "M") if architecture.has_masks else None,
        _array(arrays, "peaks", np.int64, found, keypoints, 2) if architecture.has_keypoints else None,
    )
    threshold = float(_array(arrays, "score_threshold", np.float64))
    if len(images) == 0 or (sizes < 1).any() or (sizes > images.shape[1:3]).any():
        raise ValueError("sizes are not those of the images")
    if not np.isin(answers.image_index, np.arange(len(images))).all():
        raise ValueError(f"image_index is not of {len(images)} images")
    if not (0 <= threshold < 1 and (answers.scores > threshold).all()):
        raise ValueError(f"not all scores are more than the threshold {threshold:g}")
    if not np.isfinite(boxes).all():
        raise ValueError("boxes are no numbers")
    return References(images, sizes, threshold, answers)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic], *shape: int | str) -> NDArray[Any]:
    """One of the arrays, of this shape, in which letters are any number. Raises ValueError."""
    if name not in arrays:
        raise ValueError(f"it has no {name}")
    values = arrays[name]
    sides = [side for side, wanted in zip(values.shape, shape, strict=False) if isinstance(wanted, int)]
    if values.dtype != dtype or values.ndim != len(shape) or sides != [side for side in shape if isinstance(side, int)]:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, not {np.dtype(dtype)} [{wanted}]")
    return values
