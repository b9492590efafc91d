"""A dataset of people-like figures with keypoints and masks, generated in code: for demos, tests and short runs.

    python -m training.data.figures DIR --train 1000 --val 100 --seed 0

Writes PNG images and COCO JSON (`person_keypoints_*`, with exact visible masks as compressed RLE) for tasks with
keypoints, masks or both. All figures face the viewer, so a figure's left is on the viewer's right, as in a photograph;
its left and right limbs differ in color, which shows whose a hand is when arms cross. Which color is whose is drawn
anew for each figure, or else a mirror image, whose left and right change places, would be a lie. Every image follows
from (seed, split, number, size) alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# First, for it says in one line which package of the others is missing.
from model.console.running import interruptible

# isort: split
import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from model.console.arguments import Parser, whole

KEYPOINTS = (
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_hand",
    "right_hand",
    "left_hip",
    "right_hip",
    "left_foot",
    "right_foot",
)
SKELETON = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (1, 5), (2, 6), (5, 6), (5, 7), (6, 8))
"""Pairs of positions in KEYPOINTS to join by lines."""

SIZE = 192
"""Default side of the images, in pixels."""
MOST_FIGURES = 4
HEIGHTS = (0.38, 0.66)
"""Smallest and largest height of a figure on stretched legs, by the image's side."""
VISIBLE, SHOWN = 0.7, 5
"""Share of a figure that must be visible, and keypoints that must show: what is left can still be told."""
MARKER = "figures.json"
FORMAT = 1
"""Raise it when the same seed gives other images."""

_TRUNK, _HEAD, _ARMS, _LEGS = 0, 1, (2, 3), (4, 5)
_OWN_PARTS = (
    (_HEAD,),
    (_TRUNK, _ARMS[0]),
    (_TRUNK, _ARMS[1]),
    (_ARMS[0],),
    (_ARMS[1],),
    (_TRUNK, _LEGS[0]),
    (_TRUNK, _LEGS[1]),
    (_LEGS[0],),
    (_LEGS[1],),
)
"""Parts of a figure at which each keypoint shows; under any other it is hidden."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One generated image: uint8 [S, S, 3] RGB; masks bool [N, S, S] of visible pixels; keypoints float64 [N, K, 3] as
    (x, y, visibility: 0 outside the image, 1 hidden, 2 visible)."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    keypoints: Points


@dataclass(frozen=True, slots=True)
class FiguresConfig:
    """What a generated folder holds, kept in its figures.json."""

    train: int
    val: int
    seed: int
    size: int
    format: int = FORMAT


@dataclass(frozen=True, slots=True, eq=False)
class _Figure:
    """parts: int64 [S, S], the topmost part at each pixel, -1 where the figure is not. points: float64 [K, 2]."""

    parts: NDArray[np.int64]
    points: Points


def draw_figures(rng: Generator, size: int = SIZE) -> Drawing:
    """One picture of 1 to 4 figures, and now and then a post in front of them."""
    grain = rng.normal(0, 5, (size, size, 1))
    image = _ground(rng, size)
    level = float(image.mean())
    figures: list[_Figure] = []
    visible: list[NDArray[np.bool_]] = []
    for _ in range(int(rng.integers(1, MOST_FIGURES + 1))):
        figure = _figure(rng, size)
        body = figure.parts >= 0
        left = [mask & ~body for mask in visible]
        if not body.any() or not _recognizable([*figures, figure], [*left, body]):
            continue
        colors = _colors(rng, level)
        image[body] = colors[figure.parts[body]]
        _face(image, figure, rng)
        figures.append(figure)
        visible = [*left, body]
    if rng.random() < 0.25:
        post = _post(rng, size)
        left = [mask & ~post for mask in visible]
        if _recognizable(figures, left):
            image[post] = rng.uniform(0, 255, 3)
            visible = left
    keypoints = [_keypoints(figure, mask) for figure, mask in zip(figures, visible, strict=True)]
    return Drawing(
        (image + grain).clip(0, 255).astype(np.uint8),
        np.array(visible, np.bool_).reshape(-1, size, size),
        np.array(keypoints, np.float64).reshape(-1, len(KEYPOINTS), 3),
    )


def write_figures(directory: Path, train: int = 1000, val: int = 100, seed: int = 0, size: int = SIZE) -> None:
    """Writes images/ and annotations/person_keypoints_{train,val}.json; nothing if they are there already.

    size: side of the images in pixels. The folder appears complete or not at all. Raises FileExistsError when it holds
    anything but generated figures.
    """
    config = FiguresConfig(train, val, seed, size)
    marker = directory / MARKER
    if marker.is_file():
        if json.loads(marker.read_text()) == asdict(config):
            return
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} holds something other than generated figures: choose a new folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".figures-", dir=directory.parent) as scratch:
        folder = Path(scratch) / "figures"
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(folder, split, [np.random.default_rng([seed, number, one]) for one in range(count)], size)
        (folder / MARKER).write_text(json.dumps(asdict(config)))
        if directory.exists():
            shutil.rmtree(directory)
        folder.rename(directory)


def _write_split(folder: Path, split: str, generators: list[Generator], size: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image_id, rng in enumerate(generators, 1):
        drawing = draw_figures(rng, size)
        file = f"{split}_{image_id:05d}.png"
        Image.fromarray(drawing.image).save(folder / "images" / file, compress_level=1)
        images.append({"id": image_id, "file_name": file, "width": size, "height": size})
        for mask, keypoints in zip(drawing.masks, drawing.keypoints, strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_record(mask, keypoints)})
    category = {"id": 1, "name": "figure", "keypoints": list(KEYPOINTS)}
    # COCO counts the keypoints of a skeleton from 1.
    category["skeleton"] = [[first + 1, second + 1] for first, second in SKELETON]
    document = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(document))


def _record(mask: NDArray[np.bool_], keypoints: Points) -> dict[str, Any]:
    rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "keypoints": keypoints.round(2).ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def _figure(rng: Generator, size: int) -> _Figure:
    """A figure in some pose, drawn in its own frame (x to the viewer's right, y down, height 1) and then placed."""
    height = size * float(np.exp(rng.uniform(*np.log(HEIGHTS))))
    width, tilt = rng.uniform(0.85, 1.2), rng.uniform(-0.3, 0.3)
    head, neck = np.array([rng.uniform(-0.02, 0.02), 0.12]), np.array([0.0, 0.25])
    shoulders = [np.array([side * 0.13 * width, 0.29]) for side in (1, -1)]
    hips = [np.array([side * 0.085 * width, 0.57]) for side in (1, -1)]
    limbs = []
    for side, shoulder in zip((1, -1), shoulders, strict=True):
        upper = rng.uniform(-0.2, 2.6)  # from straight down, outwards, in radians
        lower = upper + rng.uniform(-1.3, 1.3)
        elbow = shoulder + 0.17 * np.array([side * np.sin(upper), np.cos(upper)])
        limbs.append((shoulder, elbow, elbow + 0.17 * np.array([side * np.sin(lower), np.cos(lower)])))
    for side, hip in zip((1, -1), hips, strict=True):
        upper = rng.uniform(-0.1, 0.7)
        lower = upper + rng.uniform(-0.5, 0.3)
        knee = hip + 0.2 * np.array([side * np.sin(upper), np.cos(upper)])
        limbs.append((hip, knee, knee + 0.2 * np.array([side * np.sin(lower), np.cos(lower)])))
    local = np.array([head, *shoulders, limbs[0][2], limbs[1][2], *hips, limbs[2][2], limbs[3][2]])

    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    middle = rng.uniform(0.15, 0.85, 2) * size
    points = (local - (0, 0.5)) @ turn.T * height + middle
    full = np.full((size, size), -1)
    # Only pixels around the figure are looked at: 0.15 is more than any radius.
    first = np.clip(np.floor(points.min(axis=0) - 0.15 * height), 0, size).astype(int)
    stop = np.clip(np.ceil(points.max(axis=0) + 0.15 * height), 0, size).astype(int)
    parts = full[first[1] : stop[1], first[0] : stop[0]]
    x, y = _centers(first, stop) - middle[:, None, None]
    u = (turn[0, 0] * x + turn[1, 0] * y) / height
    v = (turn[0, 1] * x + turn[1, 1] * y) / height + 0.5
    grid = np.stack([u, v])
    for part, limb in zip(_LEGS, limbs[2:], strict=True):
        parts[_limb(grid, limb, (0.058, 0.045), 0.062)] = part
    spine = [_capsule(grid, neck, (hips[0] + hips[1]) / 2, 0.09 * width, 0.09 * width)]
    spine += [_capsule(grid, shoulder, hip, 0.05, 0.05) for shoulder, hip in zip(shoulders, hips, strict=True)]
    parts[np.any(spine, axis=0) | _capsule(grid, head, neck, 0.04, 0.04)] = _TRUNK
    parts[_capsule(grid, head, head, 0.11, 0.11)] = _HEAD
    for part, limb in zip(_ARMS, limbs[:2], strict=True):
        parts[_limb(grid, limb, (0.05, 0.038), 0.056)] = part
    return _Figure(full, points)


def _centers(first: NDArray[np.int64], stop: NDArray[np.int64]) -> Points:
    """float64 [2, h, w], (x, y) of the middles of the pixels from `first` to before `stop`."""
    y, x = np.mgrid[first[1] : stop[1], first[0] : stop[0]] + 0.5
    return np.stack([x, y])


def _limb(grid: Points, joints: tuple[Points, Points, Points], radii: tuple[float, float], end: float) -> NDArray[Any]:
    """bool [h, w]: two bones that taper from the first radius to the second, and a hand or foot of radius `end`."""
    first, second, third = joints
    bones = _capsule(grid, first, second, radii[0], radii[1]) | _capsule(grid, second, third, radii[1], radii[1])
    return bones | _capsule(grid, third, third, end, end)


def _capsule(grid: Points, first: Points, second: Points, start: float, stop: float) -> NDArray[np.bool_]:
    """bool [h, w]: points of `grid`, float64 [2, h, w], at a line between two; the radius goes from start to stop."""
    x, y = grid[0] - first[0], grid[1] - first[1]
    along_x, along_y = second - first
    share = ((x * along_x + y * along_y) / max(along_x**2 + along_y**2, 1e-9)).clip(0, 1)
    distance = (x - share * along_x) ** 2 + (y - share * along_y) ** 2
    inside: NDArray[np.bool_] = distance <= (start + share * (stop - start)) ** 2
    return inside


def _keypoints(figure: _Figure, visible: NDArray[np.bool_]) -> Points:
    """float64 [K, 3]; what lies outside the image is (0, 0, 0)."""
    found = np.zeros((len(KEYPOINTS), 3))
    size = len(visible)
    for row, (point, own) in enumerate(zip(figure.points, _OWN_PARTS, strict=True)):
        x, y = np.floor(point).astype(int)
        if 0 <= x < size and 0 <= y < size:
            found[row] = (*point, 2 if visible[y, x] and figure.parts[y, x] in own else 1)
    return found


def _recognizable(figures: list[_Figure], visible: list[NDArray[np.bool_]]) -> bool:
    """Whether enough is left of each figure, by its area inside the image and by its keypoints."""
    return all(
        mask.sum() >= VISIBLE * (figure.parts >= 0).sum() and (_keypoints(figure, mask)[:, 2] == 2).sum() >= SHOWN
        for figure, mask in zip(figures, visible, strict=True)
    )


def _colors(rng: Generator, level: float) -> Points:
    """float64 [6, 3] RGB of the parts: trunk, head, arm and leg of either side alike; all unlike the ground."""
    while True:
        trunk, head, one, other = rng.uniform(0, 255, (4, 3))
        colors = np.array([trunk, head, one, other, one, other])
        gaps = [np.abs(first - second).max() for first, second in ((one, other), (one, trunk), (other, trunk))]
        if min(gaps) >= 60 and np.abs(colors.mean(axis=1) - level).min() >= 35:
            return colors


def _face(image: Points, figure: _Figure, rng: Generator) -> None:
    """Two eyes and a mouth, in place: the figure looks at the viewer."""
    head, neck = figure.points[0], figure.points[1:3].mean(axis=0)
    down = neck - head
    unit = float(np.hypot(*down))
    down = down / unit
    across = np.array([down[1], -down[0]])
    first, stop = (np.clip(head + way * unit, 0, len(image)).astype(int) for way in (-1, 1))
    grid = _centers(first, stop)
    eyes = [head + unit * (side * 0.24 * across - 0.12 * down) for side in (1, -1)]
    mouth = [head + unit * (side * 0.2 * across + 0.26 * down) for side in (1, -1)]
    radius = max(0.075 * unit, 0.8)
    marks = _capsule(grid, eyes[0], eyes[0], radius, radius) | _capsule(grid, eyes[1], eyes[1], radius, radius)
    marks |= _capsule(grid, mouth[0], mouth[1], 0.7 * radius, 0.7 * radius)
    window = slice(first[1], stop[1]), slice(first[0], stop[0])
    on_head = marks & (figure.parts[window] == _HEAD)
    if on_head.any():
        bright = image[window][on_head].mean() > 127
        image[window][on_head] = rng.uniform(0, 40) if bright else rng.uniform(215, 255)


def _post(rng: Generator, size: int) -> NDArray[np.bool_]:
    """bool [S, S]: an upright bar through the image."""
    left, width = rng.uniform(0, 0.95) * size, rng.uniform(0.03, 0.07) * size
    columns = np.arange(size) + 0.5
    return np.broadcast_to((columns >= left) & (columns < left + width), (size, size))


def _ground(rng: Generator, size: int) -> Points:
    """float64 [S, S, 3]: a color that changes over the image, under blotches, stripes or checks."""
    base = rng.uniform(40, 215) + rng.uniform(-30, 30, 3)
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * x + np.sin(angle) * y
    ground = base + (across[..., None] - 0.5) * rng.uniform(-40, 40, 3)
    kind = rng.integers(3)
    if kind == 0:
        coarse = rng.normal(0, 14, (size // 16 + 1, size // 16 + 1)).astype(np.float32)
        ground += np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))[..., None]
    else:
        waves = rng.uniform(4, 12)
        pattern = np.sin(2 * np.pi * waves * across)
        if kind == 2:
            pattern = pattern * np.sin(2 * np.pi * waves * (np.cos(angle) * y - np.sin(angle) * x))
        ground += rng.uniform(6, 16) * np.sign(pattern)[..., None]
    return np.asarray(ground, np.float64)


def main() -> int:
    """The command line."""
    parser = Parser(description="Generate the figures dataset: keypoints and masks.")
    parser.add_argument("directory", type=Path, help="folder to write; it must be new, empty or generated before")
    parser.add_argument("--train", type=whole(1), default=1000, help="training images (default 1000)")
    parser.add_argument("--val", type=whole(0), default=100, help="validation images (default 100)")
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same images (default 0)")
    parser.add_argument("--size", type=whole(1), default=SIZE, help=f"side of the images in pixels (default {SIZE})")
    arguments = parser.parse_args()
    write_figures(arguments.directory, arguments.train, arguments.val, arguments.seed, arguments.size)
    print(f"{arguments.train} + {arguments.val} images in {arguments.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(interruptible(main))
