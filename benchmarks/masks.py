"""Full-size masks: `encode_masks` against torchvision's paste and pycocotools' encode, thread for thread.

    python -m benchmarks.masks
    python -m benchmarks.masks --height 3000 --width 4000 --detections 300 --json runs/masks.json

Both sides start from the same 28x28 probabilities and end with COCO's strings. Equality is checked before anything is
timed. A contender that resizes with OpenCV, box by box, as several servers do, joins when cv2 is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from benchmarks.measure import alternate, table, write_json
from model.runtime.kernels.masks import encode_masks, warm_up

PACKAGES = ("numba", "torch", "torchvision", "pycocotools", "opencv-python-headless")
PASTED_BYTES = 2**30
"""Memory for the pictures that torchvision pastes at once."""

Encode = Callable[[], list[bytes]]


@dataclass(frozen=True)
class Case:
    """masks float32 [N, 28, 28] and boxes float32 [N, 4] (x1, y1, x2, y2) in an image of `size` (height, width)."""

    masks: NDArray[np.float32]
    boxes: NDArray[np.float32]
    size: tuple[int, int]


@dataclass(frozen=True)
class Agreement:
    """How far two lists of encoded masks are the same."""

    identical_share: float
    smallest_iou: float


def smooth_case(detections: int, size: tuple[int, int], seed: int = 0, side: int = 28) -> Case:
    """What a trained mask head gives: one soft-edged blob a box, boxes from 2 % to half of the image's shorter side."""
    rng = np.random.default_rng(seed)
    height, width = size
    shorter = min(size)
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    masks = np.empty((detections, side, side), np.float32)
    for i in range(detections):
        radius = np.full_like(angle, 0.8)
        for frequency in range(2, 6):
            radius += rng.normal(0, 0.06) * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi))
        masks[i] = 1 / (1 + np.exp(-12 * (radius - distance)))
    sides = np.exp(rng.uniform(np.log(0.02 * shorter), np.log(0.5 * shorter), (detections, 1)))
    sides = sides * np.exp(rng.normal(0, 0.3, (detections, 2)))
    centres = rng.uniform(0, 1, (detections, 2)) * (width, height)
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)
    return Case(masks, np.clip(boxes, 0, (width, height, width, height)).astype(np.float32), size)


def ours(case: Case, pool: ThreadPoolExecutor, threads: int) -> Encode:
    """The kernel, on `threads` slices of the detections at a time."""
    if threads == 1:
        return lambda: [rle.counts for rle in encode_masks(case.masks, case.boxes, case.size)]
    parts = [
        (masks, boxes, case.size)
        for masks, boxes in zip(np.array_split(case.masks, threads), np.array_split(case.boxes, threads), strict=True)
    ]
    return lambda: [rle.counts for part in pool.map(lambda one: encode_masks(*one), parts) for rle in part]


def torchvision_and_pycocotools(case: Case) -> Encode:
    """The usual path: paste every mask into a picture of its own, threshold, encode.

    All at once where the float32 pictures fit into `PASTED_BYTES`, as users do it; else in parts, as they then must.
    """
    masks, boxes = torch.from_numpy(case.masks)[:, None], torch.from_numpy(case.boxes)
    part = max(1, PASTED_BYTES // (4 * case.size[0] * case.size[1]))

    def encode() -> list[bytes]:
        strings = []
        for some, theirs in zip(masks.split(part), boxes.split(part), strict=True):
            pasted = paste_masks_in_image(some, theirs, case.size) > 0.5
            pictures = (np.asfortranarray(mask, dtype=np.uint8) for mask in pasted[:, 0].numpy())
            strings += [coco_mask.encode(picture)["counts"] for picture in pictures]
        return strings

    return encode


def opencv_and_pycocotools(case: Case) -> Encode:
    """`cv2.resize` of each mask to its box, into one picture at a time. Its borders differ from torchvision's."""
    import cv2

    height, width = case.size

    def encode() -> list[bytes]:
        strings = []
        for mask, box in zip(case.masks, case.boxes, strict=True):
            x1, y1 = int(box[0]), int(box[1])
            x2, y2 = min(width, max(x1 + 1, round(box[2]))), min(height, max(y1 + 1, round(box[3])))
            picture = np.zeros(case.size, np.uint8, order="F")
            picture[y1:y2, x1:x2] = cv2.resize(mask, (x2 - x1, y2 - y1)) > 0.5
            strings.append(coco_mask.encode(picture)["counts"])
        return strings

    return encode


def agreement(some: list[bytes], others: list[bytes], size: tuple[int, int]) -> Agreement:
    """Share of identical strings, and the smallest IoU (two empty masks count as 1)."""
    same = [a == b for a, b in zip(some, others, strict=True)]
    ious = [
        1.0 if equal else float(coco_mask.iou([_coco(a, size)], [_coco(b, size)], [False])[0, 0])
        for equal, a, b in zip(same, some, others, strict=True)
    ]
    return Agreement(float(np.mean(same)), min(ious))


def _coco(counts: bytes, size: tuple[int, int]) -> dict[str, object]:
    return {"size": list(size), "counts": counts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="threads of either side")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    warm_up()
    case = smooth_case(args.detections, (args.height, args.width), args.seed)
    with ThreadPoolExecutor(args.threads) as pool:
        contenders = {
            "maskserve": ours(case, pool, args.threads),
            "torchvision + pycocotools": torchvision_and_pycocotools(case),
        }
        if find_spec("cv2"):
            import cv2

            cv2.setNumThreads(args.threads)
            contenders["OpenCV + pycocotools"] = opencv_and_pycocotools(case)
        found = agreement(contenders["maskserve"](), contenders["torchvision + pycocotools"](), case.size)
        details = {
            "height": args.height,
            "width": args.width,
            "detections": args.detections,
            "threads": args.threads,
            "seed": args.seed,
            "identical_share": found.identical_share,
            "smallest_iou": found.smallest_iou,
        }
        comparison = alternate(contenders, reference="torchvision + pycocotools", rounds=args.rounds, details=details)
    print(
        f"{args.detections} masks at {args.width}x{args.height}, {args.threads} thread(s); against torchvision: ",
        end="",
    )
    print(f"{found.identical_share:.1%} of the strings identical, smallest IoU {found.smallest_iou:.5f}")
    print(table(comparison))
    if args.json:
        write_json(args.json, comparison, packages=PACKAGES)
    if found.identical_share < 0.98 or found.smallest_iou < 0.999:
        print(
            "error: the masks differ from torchvision's; the times above compare two different things", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
