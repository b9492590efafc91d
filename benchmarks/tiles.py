"""A mosaic of a dataset's validation images: found in tiles, shrunk to what the network takes, and image by image.

    python -m benchmarks.tiles --model model/embedded/nuclei/1 --data DIR
    python -m benchmarks.tiles --model BUNDLE --data DIR --side 4096 --tile 1024 --json runs/tiles.json

Each way's detections are cut back into the images and counted against the same annotations, so that their AP compare.
Engine alone, without the service around it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from model.runtime.bundles.bundle import open_bundle
from model.runtime.detections import Detections
from model.runtime.kernels.rle import area, decode_part, encode_bitmap
from model.runtime.predict import Predictor
from model.runtime.preprocess import Size
from model.runtime.tiling import LEAST, Tile, TileAnswer, merge_tiles, plan_tiles, split
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.locate import Origin
from training.data.loading.samples import load_stored
from training.data.loading.source import load_split
from training.evaluation.evaluation import evaluate_detections

THRESHOLD = 0.05
MOST = 1000
"""Detections of an image that are counted; the nuclei have up to 375."""


@dataclass(frozen=True)
class Result:
    """One way to see the mosaic: its seconds in all, those outside the network, and what it found."""

    way: str
    seconds: float
    outside_seconds: float
    megapixels_per_second: float
    detections: int
    mask_ap: float


def shelve(sizes: list[Size], side: int, gap: int) -> tuple[Size, list[Tile]]:
    """Places for images in a picture `side` pixels wide, in rows, `gap` pixels apart, the highest first."""
    places = [Tile(0, 0, 0, 0)] * len(sizes)
    top = left = high = 0
    for number in sorted(range(len(sizes)), key=lambda one: (-sizes[one][0], one)):
        height, width = sizes[number]
        if left + width > side:
            top, left, high = top + high + gap, 0, 0
        places[number] = Tile(top, left, height, width)
        left, high = left + width + gap, max(high, height)
    return (top + high, side), places


def cut_back(found: Detections, places: list[Tile]) -> list[Detections]:
    """The mosaic's detections as those of its images: each goes to the image that most of its box lies in."""
    assert found.masks is not None
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    answers = []
    for place in places:
        x1, y1, x2, y2 = place.box
        inside = (centers[:, 0] >= x1) & (centers[:, 0] < x2) & (centers[:, 1] >= y1) & (centers[:, 1] < y2)
        window = (place.top, place.left, place.height, place.width)
        rows = np.flatnonzero(inside)
        masks = [encode_bitmap(decode_part(found.masks[row], window, window[2:]) > 0) for row in rows]
        kept = [index for index, mask in enumerate(masks) if area(mask)][:MOST]
        rows = rows[kept]
        boxes = (found.boxes[rows] - [x1, y1, x1, y1]).clip(0, [x2 - x1, y2 - y1] * 2).astype(np.float32)
        answers.append(Detections(boxes, found.scores[rows], found.labels[rows], [masks[index] for index in kept]))
    return answers


class Network:
    """Predicts and counts the seconds in it."""

    def __init__(self, predictor: Predictor, most: int) -> None:
        self.predictor, self.most, self.seconds = predictor, most, 0.0

    def see(self, picture: NDArray[np.uint8]) -> Detections:
        start = time.perf_counter()
        (found,) = self.predictor.predict([np.ascontiguousarray(picture)], THRESHOLD)
        self.seconds += time.perf_counter() - start
        return found

    def in_tiles(self, picture: NDArray[np.uint8], side: int, overlap: int) -> Detections:
        """As the service does it."""
        size = (picture.shape[0], picture.shape[1])
        waiting, answers = plan_tiles(size, side, overlap), []
        while waiting:
            tile = waiting.pop()
            found = self.see(tile.of(picture))
            full = len(found) >= self.most
            if full and min(tile.height, tile.width) >= 2 * LEAST:
                waiting += split(tile)
            else:
                answers.append(TileAnswer(tile, found, full))
        return merge_tiles(size, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--side", type=int, default=4096, help="the mosaic's width in pixels")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=int, default=204)
    parser.add_argument("--gap", type=int, default=8, help="black pixels between images")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    bundle = open_bundle(options.model)
    network = Network(Predictor.of_bundle(bundle), bundle.manifest.architecture.detections_per_image)
    try:
        data = load_split(Origin(options.data), "masks", "val", rename={}, classes=())
    except DatasetError as error:
        parser.error(str(error))
    images = [load_stored(record) for record in data.images]
    size, places = shelve([(image.shape[0], image.shape[1]) for image in images], options.side, options.gap)
    mosaic = np.zeros((*size, 3), np.uint8)
    for image, place in zip(images, places, strict=True):
        place.of(mosaic)[:] = image

    ways: dict[str, Callable[[], list[Detections]]] = {
        "image by image": lambda: [network.see(image) for image in images],
        f"tiles of {options.tile}": lambda: cut_back(network.in_tiles(mosaic, options.tile, options.overlap), places),
        "shrunk": lambda: cut_back(network.see(mosaic), places),
    }
    pixels = dict.fromkeys(ways, size[0] * size[1] / 1000000.0)
    pixels["image by image"] = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    results = [run(name, way, network, data, pixels[name]) for name, way in ways.items()]
    print(f"{len(images)} images in {size[1]}x{size[0]} pixels")
    for one in results:
        print(
            f"{one.way:16} {one.seconds:7.1f} s  {one.outside_seconds:5.1f} s outside the network  "
            f"{one.megapixels_per_second:6.2f} MP/s  {one.detections:6} found  mask AP {one.mask_ap:.4f}"
        )
    if options.json is not None:
        facts = {"machine": machine(("onnxruntime-gpu", "numba")), "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


def run(name: str, way: Callable[[], list[Detections]], network: Network, data: Dataset, megapixels: float) -> Result:
    network.seconds = 0.0
    start = time.perf_counter()
    found = way()
    seconds = time.perf_counter() - start
    metrics = evaluate_detections(data, found, ("mask",), (1, 10, MOST))
    assert metrics.mask is not None
    return Result(name, seconds, seconds - network.seconds, megapixels / seconds, sum(map(len, found)), metrics.mask.AP)


if __name__ == "__main__":
    main()
