"""Pictures with their detections drawn on them, made here from the answers with the server's own drawing function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model.console.outputs import write_whole
from service.client.errors import ClientError
from service.client.prediction import Prediction


class OverlayError(ClientError):
    """A picture could not be drawn or written."""

    type = "urn:maskserve:client:no-overlay"
    title = "The overlay cannot be made"


def write_overlay(source: Path, prediction: Prediction, labels: Mapping[int, str], path: Path) -> None:
    """Draw the prediction on the image at `source` and write it to `path` as a PNG. `labels`: the model's, by id.

    Raises OverlayError.
    """
    from model.runtime.images.decode import load_image
    from model.runtime.images.errors import ImageError
    from model.runtime.images.intensity import AUTO, Intensity
    from model.runtime.images.limits import DEFAULT_LIMITS
    from model.runtime.images.planes import PlaneChoice
    from model.runtime.overlay import draw_overlay, to_png

    # The server took the image, so it is not too large for it, whatever its limit is.
    pixels = max(DEFAULT_LIMITS.max_pixels, prediction.width * prediction.height)
    done = prediction.intensity  # the same window again, so that what is seen is what the network saw
    window = AUTO
    if done is not None:
        flat = done.low == done.high
        window = Intensity(mode="min-max") if flat else Intensity(mode="full-range", low=done.low, high=done.high)
    # The version that answered may not be the newest, which `labels` is about.
    known = dict(labels) | dict(zip(prediction.label_ids.tolist(), prediction.labels, strict=True))
    names = [known.get(number, "") for number in range(1, max(known, default=0) + 1)]
    try:
        limits, choice = replace(DEFAULT_LIMITS, max_pixels=pixels), PlaneChoice(**prediction.plane)
        image = load_image(source, limits, intensity=window, choice=choice)
        picture = to_png(draw_overlay(image, prediction.to_detections(), names))
        write_whole(path, picture)
    except OSError as error:
        raise OverlayError(f"{error.filename or path}: {error.strerror or error}") from None
    except (ImageError, ValueError) as error:
        raise OverlayError(str(error)) from None
