"""`references.npz`: a few images as the network sees them, and what it answered in float32 before it was published.

Whoever computes the network in another precision, or on another device, can see with them whether the answers are still
the same. The file is optional, NumPy's, and holds arrays alone; the manifest holds its hash as of every file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.bundle import Bundle, DamagedFile
from model.runtime.detections import RawDetections

REFERENCES_FILE: Final = "references.npz"

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
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            return _checked({name: arrays[name] for name in arrays.files}, bundle.manifest.preprocessing.channels)
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{bundle.file(REFERENCES_FILE)} holds no reference images with their answers ({error}); export the model "
            f"again"
        ) from error


def _checked(arrays: Mapping[str, NDArray[Any]], channels: int) -> References:
    """Raises KeyError, TypeError or ValueError where the arrays do not fit together."""
    known = {name: arrays[name] for name in Answers.__dataclass_fields__ if name in arrays}
    answers = Answers(**known)
    images, sizes, found = arrays["images"], arrays["sizes"], len(answers.scores)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels or len(images) == 0:
        raise ValueError(f"images is {images.dtype} {list(images.shape)}, not uint8 [B, H, W, {channels}]")
    if sizes.shape != (len(images), 2) or (sizes < 1).any() or (sizes > images.shape[1:3]).any():
        raise ValueError("sizes are not those of the images")
    if answers.boxes.shape != (found, 4) or any(len(values) != found for values in known.values()):
        raise ValueError("the answers are not of one number of detections")
    return References(images, sizes, float(arrays["score_threshold"]), answers)
