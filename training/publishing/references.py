"""The images that go into a bundle with their answers, so that an engine on a GPU can be compared with them there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.network.serving.comparing import LEAST_ALIKE, found_again
from model.runtime.bundles.references import REFERENCES_FILE, Answers, References, to_bytes
from model.runtime.engines.engine import Engine
from model.runtime.preprocess import Preprocessing, prepare
from training.progress import Display
from training.publishing.exported import Export
from training.publishing.gate import SCORE_THRESHOLD, generated_images

REFERENCE_IMAGES: Final = 4
LONGEST_SIDE: Final = 384
"""Pixels as the network sees them; of larger images the middle is taken."""


def write_references(export: Export, reference: Engine, half: Engine, staging: Path, display: Display) -> None:
    """Writes `references.npz` into the folder `staging`: the smallest images of the gate, as `reference`, the network
    in float32, answers them.

    An image in which nothing is found, or of which half precision as `half` computes it would change more than a check
    allows, tells nothing of a GPU and is left out. Without any there is no file. Says which there are.
    """
    if export.options.references == "none":
        return
    generated = export.train is None or export.options.references == "generated"
    images = generated_images(channels=export.architecture.channels) if generated else export.images
    references = choose_references(images, export.preprocessing, reference, half)
    if references is None:
        display.say("no reference images: nothing is found in them, or half precision alone would change the answers")
        return
    content = to_bytes(references)
    (staging / REFERENCES_FILE).write_bytes(content)
    whose = "generated images" if generated else "images of the data"
    display.say(
        f"{REFERENCES_FILE}: {len(references)} {whose} with {len(references.answers.scores)} detections, "
        f"{len(content) / 1e6:.1f} MB"
    )


def choose_references(
    images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing, reference: Engine, half: Engine
) -> References | None:
    """Up to `REFERENCE_IMAGES` of the images, uint8 [H, W, C], in one batch; see `write_references`."""
    smallest = sorted(images, key=lambda image: image.shape[0] * image.shape[1])
    seen = [_seen(image, preprocessing) for image in smallest]
    step = preprocessing.bucket_step
    height, width = (-(-max(image.shape[side] for image in seen) // step) * step for side in (0, 1))
    pixels = np.zeros((len(seen), height, width, preprocessing.channels), np.uint8)
    for target, image in zip(pixels, seen, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    sizes = np.array([image.shape[:2] for image in seen], np.int64)
    chosen: list[int] = []
    for index in range(len(seen)):
        one = (pixels[index : index + 1], sizes[index : index + 1], np.full(1, SCORE_THRESHOLD, np.float32))
        again, detections = found_again(Answers.of(reference.run(*one)), Answers.of(half.run(*one)), SCORE_THRESHOLD)
        if detections and again >= LEAST_ALIKE * detections:
            chosen.append(index)
        if len(chosen) == REFERENCE_IMAGES:
            break
    if not chosen:
        return None
    raw = reference.run(pixels[chosen], sizes[chosen], np.full(len(chosen), SCORE_THRESHOLD, np.float32))
    return References(pixels[chosen], sizes[chosen], SCORE_THRESHOLD, Answers.of(raw))


def _seen(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The image as the network sees it, without padding; of what is longer than `LONGEST_SIDE` the middle."""
    prepared = prepare(image, preprocessing)
    corners = [max(0, (side - LONGEST_SIDE) // 2) for side in prepared.valid]
    rows, columns = (
        slice(corner, min(corner + LONGEST_SIDE, side)) for corner, side in zip(corners, prepared.valid, strict=True)
    )
    return prepared.pixels[rows, columns]
