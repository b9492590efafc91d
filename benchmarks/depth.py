"""Pictures of more than 8 bits: whether the same picture finds the same objects in every depth, and an empty one none.

    python -m benchmarks.depth --model model/embedded/nuclei/1 --data DIR
    python -m benchmarks.depth --model model/embedded/nuclei/1 --data DIR --rules auto --depths "12; 16" --json d.json

The validation images of 8 bits are made into values as cameras and programs write them, come back to 8 bits by each of
the rules, and are counted and measured beside what they were. Nothing is timed, so other load does not matter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from model.runtime.bundles.bundle import open_bundle
from model.runtime.detections import Detections
from model.runtime.images.values.intensity import Intensity, to_uint8
from model.runtime.predict import Predictor
from training.data.annotations.dataset import Dataset
from training.data.loading.samples import load_stored
from training.data.loading.source import load_splits
from training.evaluation.evaluation import evaluate_detections
from training.evaluation.validation import SCORE_THRESHOLD, limits

PACKAGES = ("onnxruntime", "pydantic")
MAX_DETECTIONS = 1000
SIDE = 512
"""Pixels of an empty field."""

Pixels = NDArray[np.uint8]
Values = NDArray[Any]


def _in_16_bits(bits: int, offset: int = 0) -> Callable[[Pixels], Values]:
    """As a camera of so many bits writes it, a dark current of `offset` added, as far as 16 bits hold it."""

    def made(image: Pixels) -> Values:
        wide = image.astype(np.uint32) * (2**bits - 1) // 255 + offset
        values: Values = wide.clip(max=65_535).astype(np.uint16)
        return values

    return made


DEPTHS: Final[Mapping[str, Callable[[Pixels], Values]]] = {
    "8": lambda image: image,
    "8 in 16": _in_16_bits(8),
    "10": _in_16_bits(10),
    "12": _in_16_bits(12),
    "14": _in_16_bits(14),
    "16": _in_16_bits(16),
    "8 in int32": lambda image: image.astype(np.int32),
    "12 in float32": lambda image: _in_16_bits(12)(image).astype(np.float32),
    "float32 of 0..1": lambda image: image.astype(np.float32) / 255,
    "12, dark current 100": _in_16_bits(12, 100),
    "12, dark current 200": _in_16_bits(12, 200),
    "12, dark current 400": _in_16_bits(12, 400),
    "16, dark current 1600": _in_16_bits(16, 1600),
}
"""Name -> uint8 [H, W, 3] to the same picture in that depth."""

RULES: Final[Mapping[str, Intensity]] = {
    "auto": Intensity(),
    "full-range": Intensity(mode="full-range"),
    "min-max": Intensity(mode="min-max"),
    "percentile": Intensity(mode="percentile"),
}


def empty_fields(seed: int = 0) -> Iterator[tuple[str, Values]]:
    """Fields with nothing in them, uint16 [H, W] or [H, W, 3], three of each kind."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    falloff = 1 - 0.3 * (x**2 + y**2)
    for _ in range(3):
        yield "dark, 12 bits", _counts(generator.normal(200, 6, (SIDE, SIDE)))
        columns = generator.normal(0, 2, SIDE)
        dark = generator.normal(100, 2, (SIDE, SIDE)) + columns
        yield "dark, 16 bits, columns", _counts(dark)
        dark.flat[generator.integers(0, dark.size, 20)] = generator.integers(1000, 60000, 20)
        yield "dark, 16 bits, hot pixels", _counts(dark)
        yield "flat field, 12 bits", _counts(100 + generator.poisson(2000 * falloff))
        yield "haze, 16 bits", _counts(100 + generator.poisson(150 * falloff + 40 * _clouds(generator, 24)))
        slide = np.array([3500, 3400, 3600]) * falloff[..., None] * (1 + 0.01 * _clouds(generator, 64)[..., None])
        yield "slide, 12 bits, RGB", _counts(generator.normal(slide, 15))


def _clouds(generator: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Smooth noise from 0 to 1, float64 [SIDE, SIDE]: random values at `cells` places a side, linear between them."""
    grid, at = generator.random((cells, cells)), np.linspace(0, cells - 1, SIDE)
    rows = np.stack([np.interp(at, np.arange(cells), row) for row in grid])
    return np.stack([np.interp(at, np.arange(cells), column) for column in rows.T], axis=1)


def _counts(values: NDArray[Any]) -> NDArray[np.uint16]:
    counts: NDArray[np.uint16] = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
    return counts


class Finder:
    """Detections of pictures; one that was seen before is not computed again."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._known: dict[bytes, Detections] = {}

    def find(self, values: Values, rule: Intensity) -> Detections:
        image, _ = to_uint8(values, rule)
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        key = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()
        if key not in self._known:
            [self._known[key]] = self._predictor.predict([image], SCORE_THRESHOLD, MAX_DETECTIONS)
        return self._known[key]


@dataclass(frozen=True)
class Row:
    """One depth by one rule: mask AP in points, objects above the model's threshold; the differences are to 8 bits."""

    depth: str
    rule: str
    mask_ap: float
    ap_difference: float
    count: int
    count_difference: float


@dataclass
class Figures:
    """All that was found. `false` is rule -> kind of empty field -> detections above the threshold."""

    threshold: float
    rows: list[Row] = field(default_factory=list)
    false: dict[str, dict[str, int]] = field(default_factory=dict)


def measure_depths(
    data: Dataset, finder: Finder, threshold: float, depths: Sequence[str], rules: Sequence[str]
) -> Iterator[Row]:
    """The rows of `depths` by `rules`, the picture as it is in 8 bits first."""
    images = [load_stored(record) for record in data.images]
    base: tuple[float, int] | None = None
    for depth, rule in [("8", "auto"), *((depth, rule) for rule in rules for depth in depths)]:
        found = [finder.find(DEPTHS[depth](image), RULES[rule]) for image in images]
        figures = evaluate_detections(data, found, ["mask"], limits(MAX_DETECTIONS)).mask
        assert figures is not None, "masks were asked for"
        points, count = 100 * figures.AP, _above(found, threshold)
        base = base or (points, count)
        yield Row(depth, rule, points, points - base[0], count, count / max(base[1], 1) - 1)


def count_false(finder: Finder, threshold: float, rule: str) -> dict[str, int]:
    """Kind of empty field -> detections above the threshold in its three fields."""
    false: dict[str, int] = {}
    for kind, values in empty_fields():
        false[kind] = false.get(kind, 0) + _above([finder.find(values, RULES[rule])], threshold)
    return false


def _above(found: Sequence[Detections], threshold: float) -> int:
    return int(sum(np.count_nonzero(one.scores > threshold) for one in found))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    bundle = open_bundle(options.model)
    defaults = bundle.manifest.defaults
    threshold = min(defaults.score_thresholds.values(), default=defaults.score_threshold)
    data = load_splits(options.data, bundle.manifest.architecture.task).val
    if data is None:
        raise SystemExit(f"{options.data} has no validation split")
    finder = Finder(Predictor.of_bundle(bundle, threads=options.threads))
    figures = Figures(threshold)
    print(f"score above {threshold:g}; {len(data)} images")
    print("| depth | rule | mask AP | to 8 bits | objects | to 8 bits |\n| --- | --- | --- | --- | --- | --- |")
    for row in measure_depths(data, finder, threshold, options.depths, options.rules):
        print(
            f"| {row.depth} | {row.rule} | {row.mask_ap:.2f} | {row.ap_difference:+.2f} | {row.count} | "
            f"{row.count_difference:+.1%} |",
            flush=True,
        )
        figures.rows.append(row)
    figures.false = {rule: count_false(finder, threshold, rule) for rule in options.rules}
    print(
        "\n| empty field, three of each | " + " | ".join(figures.false) + " |\n| --- |" + " --- |" * len(figures.false)
    )
    for kind in next(iter(figures.false.values())):
        print(f"| {kind} | " + " | ".join(str(false[kind]) for false in figures.false.values()) + " |")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(PACKAGES), **asdict(figures)}, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a bundle's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset with a validation split")
    parser.add_argument("--depths", type=_names(DEPTHS), default=list(DEPTHS), metavar="NAMES", help="default: all")
    parser.add_argument("--rules", type=_names(RULES), default=list(RULES), metavar="NAMES", help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of an inference")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        """Names separated by semicolons, since some hold a comma."""
        names = [name.strip() for name in text.split(";")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {'; '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
