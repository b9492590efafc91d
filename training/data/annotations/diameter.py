"""How large objects are as the network sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.runtime.kernels.rle import area
from model.runtime.preprocess import Preprocessing
from training.data.annotations.dataset import Dataset

UNLIMITED = 10**9
"""Pixels that no picture has."""


def input_scales(data: Dataset, architecture: ArchitectureConfig) -> NDArray[np.float64]:
    """float64 [I], by image: pixels of the network's input for each of the image's.

    What is longer than max_size, of models that see pictures at their own scale, is served in tiles of that scale.
    """
    preprocessing = Preprocessing.from_architecture(architecture)
    if not architecture.allow_downscale:
        preprocessing = preprocessing.model_copy(update={"max_size": UNLIMITED})
    return np.array([preprocessing.resized((one.height, one.width))[1] / one.width for one in data.images], np.float64)


def median_diameter(data: Dataset, architecture: ArchitectureConfig) -> float | None:
    """The median diameter of the objects in pixels of the network's input, to a hundredth; None without objects.

    A diameter is that of a circle with the mask's area or, for networks without masks, of the ellipse that fills the
    box. Crowd regions and empty masks do not count. Raises ValueError where a mask is missing or of another size.
    """
    diameters = [np.zeros(0)]
    for image, found, scale in zip(data.images, data.annotations, input_scales(data, architecture), strict=True):
        objects = found.select(~found.crowd)
        if architecture.has_masks:
            areas = np.array([area(rle) for rle in objects.rles(image.height, image.width)], np.float64)
            own = np.sqrt(4 / np.pi * areas)
        else:
            own = np.sqrt(objects.xywh[:, 2:].prod(axis=1))
        diameters.append(own * scale)
    every = np.concatenate(diameters)
    every = every[every > 0]
    return round(float(np.median(every)), 2) if len(every) else None
