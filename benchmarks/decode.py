"""An image file as the network takes it: ours beside plain Pillow and PyTurboJPEG, in time, memory, and accuracy.

    python -m benchmarks.decode
    python -m benchmarks.decode --sizes 1080x1920 --rounds 15 --json runs/decode.json
    python -m benchmarks.decode --model model/embedded/nuclei/1 --data DIR

Each way ends with the pixels in their bucket. Plain Pillow opens, converts to RGB and resizes. PyTurboJPEG joins for
JPEGs where it and libturbojpeg are installed; it decodes down to the size that is seen, we to no less than twice that.
Peaks of memory come from processes of their own. The last command measures why: validation images are enlarged, given a
camera's noise, saved as JPEGs, and seen at their own size, and their mask AP is that of each way to get there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Comparison, alternate, machine, table
from model.runtime.detections import Detections
from model.runtime.images.picture import Size
from model.runtime.preprocess import Prepared, Preprocessing, prepare_file

PACKAGES = ("pillow", "PyTurboJPEG")
OURS, PILLOW, TURBO = "maskserve", "Pillow", "PyTurboJPEG"
PREPROCESSING: Final = Preprocessing(reduced_decoding=True)
SIZES = ("1080x1920", "3000x4000")
FILES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG, progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {"compress_level": 1}),
    "PNG, 16 bits": ("PNG", {"compress_level": 1}),
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "WebP": ("WEBP", {"quality": 90, "method": 0}),
}
ENLARGED = (2, 4)
NOISE = 4
"""Standard deviation, in steps of 255, of what a camera adds to each pixel."""
MAX_DETECTIONS = 1000


def file_of(kind: str, size: Size) -> bytes:
    """A file of that kind with smooth shades, edges and noise in it."""
    y, x = np.mgrid[: size[0], : size[1]]
    ground = np.stack([x % 640 * 0.3, y % 480 * 0.4, (x // 40 + y // 40) % 2 * 120], axis=2)
    noise = np.random.default_rng(0).normal(30, NOISE, (*size, 1))
    values = np.clip(ground + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 257 if "16" in kind else values)
    format, options = FILES[kind]
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ours(data: bytes) -> Prepared:
    return prepare_file(data, PREPROCESSING)


def pillow(data: bytes) -> Prepared:
    image = Image.open(BytesIO(data)).convert("RGB")
    return _in_bucket(image, (image.height, image.width))


def turbo() -> Callable[[bytes], Prepared] | None:
    """None where the package or its library is missing."""
    try:
        from turbojpeg import TJPF_RGB, TurboJPEG

        library = TurboJPEG()
    except (ImportError, RuntimeError, OSError):
        return None

    def decode(data: bytes) -> Prepared:
        width, height, *_ = library.decode_header(data)
        target = PREPROCESSING.resized((height, width))
        by = next((by for by in (8, 4, 2) if height >= by * target[0] and width >= by * target[1]), 1)
        values = library.decode(data, pixel_format=TJPF_RGB, scaling_factor=(1, by))
        return _in_bucket(Image.fromarray(values), (height, width))

    return decode


def _in_bucket(image: Image.Image, original: Size) -> Prepared:
    (height, width), bucket = PREPROCESSING.resized(original), PREPROCESSING.bucket(original)
    pixels = np.zeros((*bucket, 3), np.uint8)
    pixels[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return Prepared(pixels, (height, width), original)


def ways(kind: str) -> dict[str, Callable[[bytes], Prepared]]:
    """The contenders for files of that kind."""
    found: dict[str, Callable[[bytes], Prepared]] = {OURS: ours, PILLOW: pillow}
    if kind.startswith("JPEG") and (third := turbo()) is not None:
        found[TURBO] = third
    return found


def compare(kind: str, size: Size, rounds: int) -> Comparison:
    """Times of all ways, and by how much the pixels differ from plain Pillow's, on average, in steps of 255."""
    data = file_of(kind, size)
    contenders = {name: partial(way, data) for name, way in ways(kind).items()}
    reference = contenders[PILLOW]().pixels.astype(np.int16)
    differences = {name: float(np.abs(call().pixels - reference).mean()) for name, call in contenders.items()}
    details = {"kind": kind, "size": list(size), "bytes": len(data), "differences": differences}
    return alternate(contenders, reference=PILLOW, rounds=rounds, details=details)


def peak(kind: str, size: Size, way: str) -> float:
    """MiB that one way takes at its peak, beyond what this process held before, the file among it. Linux only.

    For a fresh process: what an earlier call left to the allocator would hide what this one takes.
    """
    data = file_of(kind, size)
    call = ways(kind)[way]
    call(file_of(kind, (40, 60)))
    ctypes.CDLL(None).malloc_trim(0)  # so what making the file has left goes back
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is held now
    before = _kib("VmRSS")
    call(data)
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def enlarged(image: NDArray[np.uint8], by: int, generator: np.random.Generator) -> bytes:
    """A JPEG of the image with `by` times its sides, as a camera of more pixels would have taken it."""
    height, width = image.shape[:2]
    large = np.asarray(Image.fromarray(image).resize((width * by, height * by), Image.Resampling.BICUBIC))
    noisy = large + generator.normal(0, NOISE, (*large.shape[:2], 1))
    buffer = BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def shrunk(data: bytes, size: Size) -> dict[str, NDArray[np.uint8]]:
    """A JPEG at `size`, by how it is made so small: in full by Pillow; by a mean of blocks before that, as
    `Image.thumbnail` does; and by the decoder, down to no less than twice `size`, which is what we do, or to `size`."""

    def opened(margin: int = 0) -> Image.Image:
        image = Image.open(BytesIO(data))
        if margin:
            image.draft("RGB", (margin * size[1], margin * size[0]))
        return image.convert("RGB")

    def small(image: Image.Image, gap: float | None = None) -> NDArray[np.uint8]:
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=gap))

    return {
        "in full": small(opened()),
        "means first": small(opened(), gap=2),
        "decoder to twice the size": small(opened(margin=2)),
        "decoder to the size": small(opened(margin=1)),
    }


@dataclass(frozen=True)
class Accuracy:
    """Mask AP, in points, of images enlarged `by` times, by the way of `shrunk`."""

    by: int
    points: dict[str, float]


def accuracies(model: Path, folder: Path, threads: int) -> Iterator[Accuracy]:
    """Of the validation images, each seen at its own size."""
    from model.runtime.bundles.bundle import open_bundle
    from model.runtime.predict import Predictor
    from training.data.loading.samples import load_stored
    from training.data.loading.source import load_splits
    from training.evaluation.evaluation import evaluate_detections
    from training.evaluation.validation import SCORE_THRESHOLD, limits

    bundle = open_bundle(model)
    data = load_splits(folder, bundle.manifest.architecture.task).val
    if data is None:
        raise SystemExit(f"{folder} has no validation split")
    predictor = Predictor.of_bundle(bundle, threads=threads)
    for by in ENLARGED:
        generator = np.random.default_rng(by)
        found: dict[str, list[Detections]] = {}
        for record in data.images:
            image = load_stored(record)
            file = enlarged(image, by, generator)
            for name, pixels in shrunk(file, (image.shape[0], image.shape[1])).items():
                found.setdefault(name, []).extend(predictor.predict([pixels], SCORE_THRESHOLD, MAX_DETECTIONS))
        points = {}
        for name, detections in found.items():
            figures = evaluate_detections(data, detections, ["mask"], limits(MAX_DETECTIONS)).mask
            assert figures is not None, "masks were asked for"
            points[name] = 100 * figures.AP
        yield Accuracy(by, points)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.peak:
        print(peak(options.kinds[0], options.sizes[0], options.peak))
        return
    report: dict[str, Any] = {"machine": machine(PACKAGES)}
    if options.model is not None:
        report["accuracies"] = []
        for one in accuracies(options.model, options.data, options.threads):
            report["accuracies"].append(asdict(one))
            print(
                f"enlarged {one.by}x: " + ", ".join(f"{name} {ap:.2f}" for name, ap in one.points.items()), flush=True
            )
    else:
        report["files"] = []
        for kind in options.kinds:
            for size in options.sizes:
                comparison = compare(kind, size, options.rounds)
                peaks = {name: peak_alone(kind, size, name) for name in ways(kind)}
                report["files"].append({**asdict(comparison), "peak_mib": peaks})
                print(f"\n{kind}, {size[1]}x{size[0]}\n{table(comparison)}")
                print("MiB at the peak: " + ", ".join(f"{name} {mib:.0f}" for name, mib in peaks.items()), flush=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def peak_alone(kind: str, size: Size, way: str) -> float:
    """`peak` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.decode", "--peak", way]
    command += ["--kinds", kind, "--sizes", f"{size[0]}x{size[1]}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=FILES, default=list(FILES), help="default: all")
    parser.add_argument(
        "--sizes", nargs="+", type=_size, default=[_size(size) for size in SIZES], metavar="HEIGHTxWIDTH"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", type=Path, metavar="DIR", help="a bundle: measure accuracy instead of time")
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset with a validation split, with --model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of an inference")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
