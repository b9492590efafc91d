"""A mosaic of a dataset's validation images: found in tiles, shrunk to what the network takes, and image by image.

    python -m benchmarks.tiles --model model/embedded/nuclei/1 --data DIR --shifts 3
    python -m benchmarks.tiles --model model/embedded/nuclei/1 --data DIR --grid 192 192 --seen runs/seen.json
    python -m benchmarks.tiles --model BUNDLE --data DIR --side 4096 --tile 1024 --json runs/tiles.json
    python -m benchmarks.tiles --model model/embedded/nuclei/1 --data DIR --sides 1024 4096 10000 20000

Each way's detections are cut back into the images and counted against the same annotations, so that their AP compare.
`framed` is each image alone in a frame as it has in the mosaic (see `mosaic`): what that loses, no tile has lost.
`--shifts` and `--grid` move the grid of tiles: of what the model's thresholds keep, as many objects should stay the
same. Engine alone, without the service around it. What the file `--seen` has of tiles is not computed again: their
seconds then say nothing. With `--sides`, pictures of these sizes go through a server instead: see `sizes`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.evenly import evenly
from benchmarks.measure import machine
from benchmarks.tiles import sizes
from benchmarks.tiles.mosaic import FRAME, MOST, cut_back, framed, mosaic
from benchmarks.tiles.seen import SeenTiles
from benchmarks.tiles.sizes import Measured
from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.detections import Detections
from model.runtime.kernels.rle import decode_part
from model.runtime.merging import SURE_SHARE, merge_tiles
from model.runtime.predict import Predictor
from model.runtime.sightings import TileAnswer
from model.runtime.tiling import OVERLAP, SMALLEST, STEP, Tile, plan_tiles, smaller_tiles, tile_side
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.locate import Origin
from training.data.loading.samples import load_stored
from training.data.loading.source import load_split
from training.evaluation.evaluation import evaluate_detections

THRESHOLD = 0.05
SAME = 0.9
"""IoU of the masks from which two answers have the same object."""


@dataclass(frozen=True)
class Result:
    """One way to see the mosaic: its seconds in all, those outside the network, and what it found."""

    way: str
    seconds: float
    outside_seconds: float
    megapixels_per_second: float
    seen: float
    """Pixels that the network sees for each of the picture's."""
    detections: int
    mask_ap: float
    same: float | None = None
    """Of the objects that the model's thresholds keep, how many are the same as without a shift of the grid."""


def same_objects(one: Detections, other: Detections) -> float:
    """Share of the objects of either answer that the other has too, with IoU `SAME` of their masks; the smaller one."""
    matched = [np.zeros(len(one), np.bool_), np.zeros(len(other), np.bool_)]
    for row, (x1, y1, x2, y2) in enumerate(one.boxes):
        boxes = other.boxes
        near = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
        for candidate in np.flatnonzero(near):
            if _iou(one, row, other, int(candidate)) >= SAME:
                matched[0][row] = matched[1][candidate] = True
    return min(float(part.mean()) if len(part) else 1.0 for part in matched)


def _iou(one: Detections, row: int, other: Detections, candidate: int) -> float:
    assert one.masks is not None
    assert other.masks is not None
    a, b = one.boxes[row], other.boxes[candidate]
    left, top = np.floor(np.minimum(a[:2], b[:2])).astype(int).tolist()
    right, bottom = np.ceil(np.maximum(a[2:], b[2:])).astype(int).tolist()
    window = (top, left, bottom - top, right - left)
    mine, theirs = (decode_part(rle, window, window[2:]) for rle in (one.masks[row], other.masks[candidate]))
    return float((mine & theirs).sum() / max((mine | theirs).sum(), 1))


def kept(found: Detections, thresholds: NDArray[np.float32]) -> Detections:
    """The detections that score more than their label's threshold; float32 by label id."""
    assert found.masks is not None
    rows = np.flatnonzero(found.scores > thresholds[found.labels])
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows], [found.masks[row] for row in rows])


class Network:
    """Predicts, and counts the seconds in it and the pixels that it sees."""

    def __init__(self, bundle: Bundle) -> None:
        self.predictor, self.manifest = Predictor.of_bundle(bundle), bundle.manifest
        self.seconds, self.pixels = 0.0, 0

    def see(self, picture: NDArray[np.uint8]) -> Detections:
        start = time.perf_counter()
        (found,) = self.predictor.predict([np.ascontiguousarray(picture)], THRESHOLD)
        self.seconds += time.perf_counter() - start
        self.pixels += picture.shape[0] * picture.shape[1]
        return found

    def in_tiles(self, picture: NDArray[np.uint8], tiles: list[Tile], known: SeenTiles) -> Detections:
        """As the service does it, for a request from `THRESHOLD` on. What is seen of a tile is `known` from then on."""
        waiting, answers = list(tiles), []
        architecture, preprocessing = self.manifest.architecture, self.manifest.preprocessing
        own = self.manifest.score_thresholds
        sure = own * np.float32(SURE_SHARE)
        while waiting:
            tile = waiting.pop()
            found = known.get(tile)
            if found is None:
                found = self.see(tile.of(picture))
                known.add(tile, found)
            some, certain = (int((found.scores > least[found.labels]).sum()) for least in (sure, own))
            smaller = smaller_tiles(tile, some, certain, architecture, preprocessing)
            waiting += smaller
            full = len(found) >= architecture.detections_per_image
            answers.append(TileAnswer(tile, found, np.inf if smaller else float(found.scores[-1]) if full else 0.0))
        return merge_tiles((picture.shape[0], picture.shape[1]), answers, sure=sure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--side", type=int, default=4096, help="the mosaic's width in pixels")
    parser.add_argument("--images", type=int, help="only so many images, evenly taken")
    parser.add_argument("--tile", type=int, help="a tile's side in pixels (default: as tile=auto)")
    parser.add_argument("--overlap", type=int, help="in pixels (default: a third of a tile)")
    parser.add_argument("--shifts", type=int, default=0, help="other grids to try")
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        action="append",
        default=[],
        metavar=("UP", "LEFT"),
        help="another grid to try, moved by so many pixels; may be given again",
    )
    parser.add_argument("--seen", type=Path, help="a file that keeps what the network finds in each tile")
    frames = ["mirrored", "mean", "black"]
    parser.add_argument("--frame", choices=frames, default="mirrored", help="what lies around the images")
    parser.add_argument("--sides", type=int, nargs="+", help="measure a server on square pictures of these sizes")
    choices = get_args(PrecisionChoice)
    parser.add_argument("--precision", choices=choices, default="f32", help="what that server computes in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    network = Network(open_bundle(options.model))
    manifest = network.manifest
    try:
        data = load_split(Origin(options.data), "masks", "val", rename={}, classes=())
    except DatasetError as error:
        parser.error(str(error))
    data = evenly(data, options.images)
    images = [load_stored(record) for record in data.images]
    if options.sides is not None:
        grow(options.sides, images, options)
        return
    mean = np.round(np.array(manifest.architecture.image_mean) * 255).astype(np.uint8)
    color = {"mirrored": None, "mean": mean, "black": np.zeros_like(mean)}[options.frame]
    picture, places = mosaic(images, options.side, color)
    size = (picture.shape[0], picture.shape[1])

    side = options.tile or tile_side(manifest.architecture, manifest.preprocessing, size)
    if side is None:
        parser.error(f"the mosaic of {size[1]}x{size[0]} is seen whole: give the tiles' side (--tile)")
    overlap = side // OVERLAP if options.overlap is None else options.overlap
    print(f"{len(images)} images in {size[1]}x{size[0]} pixels, tiles of {side} that overlap by {overlap}")
    pixels = size[0] * size[1]
    try:
        plan_tiles(size, side, overlap)  # refuses an overlap that does not fit
        SeenTiles(options.seen, manifest.sha256, picture)
    except ValueError as error:
        parser.error(str(error))
    see = partial(run, network, data)
    results: list[Result] = []

    def tell(one: Result) -> None:
        results.append(one)
        print(
            f"{one.way:16} {one.seconds:7.1f} s  {one.outside_seconds:5.1f} s outside the network  "
            f"{one.megapixels_per_second:6.2f} MP/s  {one.seen:5.2f} pixels seen for each  {one.detections:6} found  "
            f"mask AP {one.mask_ap:.4f}" + ("" if one.same is None else f"  {one.same:.2%} the same"),
            flush=True,
        )

    own_pixels = sum(image.shape[0] * image.shape[1] for image in images)
    tell(see("image by image", lambda: [network.see(image) for image in images], own_pixels))
    tell(see("framed", lambda: [in_frame(network, image, color) for image in images], own_pixels))
    unshifted: Detections | None = None
    for number, shift in enumerate([*shifts(options.shifts, side - overlap), *map(tuple, options.grid)]):
        tiles = plan_tiles(size, side, overlap, shift)
        known = SeenTiles(options.seen, manifest.sha256, picture)
        name = f"tiles, {shift[0]}, {shift[1]}" if number else "tiles"
        result = see(name, partial(tiled, network, picture, tiles, known, places), pixels)
        known.save()
        found = kept(network.in_tiles(picture, tiles, known), manifest.score_thresholds)
        unshifted = unshifted or found
        tell(replace(result, same=same_objects(unshifted, found)))
    tell(see("shrunk", lambda: cut_back(network.see(picture), places), pixels))
    _write(options.json, results)


def grow(sides: Sequence[int], images: Sequence[NDArray[np.uint8]], options: argparse.Namespace) -> None:
    """Pictures of these sizes through a server, one after the other."""
    manifest = open_bundle(options.model).manifest
    measured: list[Measured] = []
    for side in sides:
        tile = options.tile or tile_side(manifest.architecture, manifest.preprocessing, (side, side)) or SMALLEST
        overlap = tile // OVERLAP if options.overlap is None else options.overlap
        measured.append(sizes.measure(options.model.parents[1], images, side, tile, overlap, options.precision))
        print(sizes.row(measured[-1]), flush=True)
        _write(options.json, measured)


def _write(path: Path | None, results: Sequence[Result | Measured]) -> None:
    if path is not None:
        facts = {"machine": machine(("onnxruntime-gpu", "numba")), "results": [asdict(one) for one in results]}
        path.write_text(json.dumps(facts, indent=2) + "\n")


def shifts(count: int, stride: int) -> list[tuple[int, int]]:
    """How far the grid is moved, (up, left): not at all, and `count` times by parts of the tiles' `stride`."""
    parts = [
        (number * stride / (count + 1), (count + 1 - number) * stride / (count + 1)) for number in range(count + 1)
    ]
    return [(0, 0), *((round(up / STEP) * STEP, round(left / STEP) * STEP) for up, left in parts[1:])]


def in_frame(network: Network, image: NDArray[np.uint8], color: NDArray[np.uint8] | None) -> Detections:
    """An image alone, in as much of a frame as it has in the mosaic."""
    seen = network.see(framed(image, ((FRAME, FRAME), (FRAME, FRAME)), color))
    (found,) = cut_back(seen, [Tile(FRAME, FRAME, image.shape[0], image.shape[1])])
    return found


def tiled(
    network: Network, picture: NDArray[np.uint8], tiles: list[Tile], known: SeenTiles, places: list[Tile]
) -> list[Detections]:
    return cut_back(network.in_tiles(picture, tiles, known), places)


def run(network: Network, data: Dataset, name: str, way: Callable[[], list[Detections]], pixels: int) -> Result:
    network.seconds, network.pixels = 0.0, 0
    start = time.perf_counter()
    found = way()
    seconds = time.perf_counter() - start
    metrics = evaluate_detections(data, found, ("mask",), (1, 10, MOST))
    assert metrics.mask is not None
    return Result(
        name,
        seconds,
        seconds - network.seconds,
        pixels / 1e6 / seconds,
        network.pixels / pixels,
        sum(map(len, found)),
        metrics.mask.AP,
    )


if __name__ == "__main__":
    main()
