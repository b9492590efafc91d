"""What was found among the places of a batch, as the runtime's detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RawDetections


def detections(arrays: Mapping[str, NDArray[Any]]) -> RawDetections:
    """What was found among the places of a batch's images."""
    found = np.isfinite(arrays["scores"])
    index = np.nonzero(found)[0].astype(np.int64)
    optional = {name: arrays[name][found] for name in ("masks", "keypoint_heatmaps") if name in arrays}
    maps = {name: value.astype(np.float32, copy=False) for name, value in optional.items()}
    return RawDetections(arrays["boxes"][found], arrays["scores"][found], arrays["labels"][found], index, **maps)


def joined(parts: Sequence[RawDetections], images: int) -> RawDetections:
    """One batch of batches of `images`, the last of which may have fewer."""
    if len(parts) == 1:
        return parts[0]

    def maps(name: str) -> NDArray[np.float32] | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return RawDetections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.image_index + number * images for number, part in enumerate(parts)]),
        maps("masks"),
        maps("keypoint_heatmaps"),
    )
