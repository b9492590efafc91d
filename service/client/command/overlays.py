"""Pictures with their detections drawn on them, made here from the answers with the server's own drawing function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.console.outputs import write_whole
from service.client.errors import ClientError
from service.client.prediction import AppliedIntensity, Prediction

if TYPE_CHECKING:
    from model.runtime.images.limits import ImageLimits
    from model.runtime.images.values.intensity import Intensity


class OverlayError(ClientError):
    """A picture could not be drawn or written."""

    type = "urn:maskserve:client:no-overlay"
    title = "The overlay cannot be made"


def write_overlay(source: Path, prediction: Prediction, labels: Mapping[int, str], path: Path) -> None:
    """Draw the prediction on the image at `source` and write it to `path` as a PNG. `labels`: the model's, by id.

    Raises OverlayError.
    """
    from model.runtime.images.errors import ImageError
    from model.runtime.images.limits import DEFAULT_LIMITS
    from model.runtime.overlay import draw_overlay, to_png

    # The server took the image, so it is not too large for it, whatever its limit is.
    pixels = max(DEFAULT_LIMITS.max_pixels, prediction.width * prediction.height)
    # The version that answered may not be the newest, which `labels` is about.
    known = dict(labels) | dict(zip(prediction.label_ids.tolist(), prediction.labels, strict=True))
    names = [known.get(number, "") for number in range(1, max(known, default=0) + 1)]
    try:
        image = _seen(source, prediction, replace(DEFAULT_LIMITS, max_pixels=pixels))
        picture = to_png(draw_overlay(image, prediction.to_detections(), names))
        write_whole(path, picture)
    except OSError as error:
        raise OverlayError(f"{error.filename or path}: {error.strerror or error}") from None
    except (ImageError, ValueError) as error:
        raise OverlayError(str(error)) from None


def _seen(source: Path, prediction: Prediction, limits: ImageLimits) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: what the network saw, or the first three of its channels."""
    from model.runtime.images.decode import load_image
    from model.runtime.images.planes import PlaneChoice
    from model.runtime.images.values.pixels import shown

    index = prediction.plane.get
    plane = PlaneChoice(index("page"), index("z"), index("t"), index("channel"))
    if not prediction.channels:
        return load_image(source, limits, intensity=_same_window(prediction.intensity), choice=plane)
    pixels = np.zeros((prediction.height, prediction.width, len(prediction.channels[:3])), np.uint8)
    for place, taken in enumerate(prediction.channels[:3]):
        if taken is not None:
            choice = replace(plane, channels=(taken.index,), inputs=1)
            pixels[..., place] = load_image(source, limits, intensity=_same_window(taken.intensity), choice=choice)[
                ..., 0
            ]
    return shown(pixels)


def _same_window(done: AppliedIntensity | None) -> Intensity:
    """What makes the same 8 bits of the values again."""
    from model.runtime.images.values.intensity import AUTO, Intensity

    if done is None:
        return AUTO
    if done.low == done.high:
        return Intensity(mode="min-max")
    return Intensity(mode="full-range", low=done.low, high=done.high)
