"""Keypoints of an object, held against its image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.fields import BrokenRecord
from training.data.annotations.repair import BORDER, Repairs


def fit_keypoints(
    keypoints: NDArray[np.float64], size: tuple[int, int], where: str, repairs: Repairs
) -> NDArray[np.float64]:
    """float64 [K, 3] as (x, y, visibility) in an image of size (width, height); those outside become unlabeled.

    Raises BrokenRecord for a visibility that is not 0, 1 or 2, and where all labeled ones are outside.
    """
    strange = ~np.isin(keypoints[:, 2], (0, 1, 2))
    if strange.any():
        value = keypoints[strange, 2][0]
        raise BrokenRecord("bad keypoints", f"{where} has a keypoint of visibility {value:g}, not 0, 1 or 2")
    labeled = keypoints[:, 2] > 0
    outside = labeled & ((keypoints[:, :2] < -BORDER) | (keypoints[:, :2] > np.array(size) + BORDER)).any(axis=1)
    if not outside.any():
        return keypoints
    picture = f"the image of {size[0]}x{size[1]}"
    if outside.sum() == labeled.sum():
        raise BrokenRecord("bad keypoints", f"all labeled keypoints of {where} lie outside {picture}")
    x, y = keypoints[outside][0, :2]
    repairs.note("keypoint outside the picture unlabeled", f"{where}: ({x:g}, {y:g}) in {picture}")
    return np.where(outside[:, None], 0, keypoints)
