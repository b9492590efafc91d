"""Every engine and precision that is installed here, on the same validation images in turns: speed, memory, start, AP.

    python -m benchmarks.engines --model model/embedded/nuclei/1 --data DIR --json engines.json

Timed is the way from a file to COCO's strings, an image after the other, each contender in a process of its own that
waits while another computes. First each answers all validation images: its AP is measured, and how far they are from
ONNX Runtime's in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.contender import Contender, Running
from benchmarks.evenly import evenly
from benchmarks.measure import Comparison, alternate, own_seconds, table, told_features, write_json
from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.bundles.manifest import INT8_FILE
from model.runtime.detections import Detections
from model.runtime.engines.engine import MODEL_FILES, EngineKind
from model.runtime.engines.processor import BF16_FEATURES, processor_features, processor_name
from model.runtime.kernels import keypoints, masks
from training.data.annotations.classes import order_classes
from training.data.annotations.dataset import Dataset
from training.data.formats.locate import Origin
from training.data.loading.source import load_split
from training.evaluation.evaluation import KINDS, evaluate_detections
from training.evaluation.validation import limits

PACKAGES = ("onnxruntime-gpu", "openvino", "torch")

REFERENCE = Contender("onnx f32", "onnx")
CONTENDERS = (
    REFERENCE,
    Contender("onnx int8", "onnx", file=INT8_FILE),
    Contender("torchscript f32", "torchscript"),
    Contender("openvino f32", "openvino"),
    Contender("openvino bf16", "openvino", "bf16"),
    Contender("openvino int8", "openvino", file=INT8_FILE),
    Contender("openvino int8, bf16 elsewhere", "openvino", "bf16", INT8_FILE),
)
LIBRARIES: dict[EngineKind, str] = {"onnx": "onnxruntime", "torchscript": "torch", "openvino": "openvino"}


@dataclass(frozen=True)
class Found:
    """What one contender did besides its time. Differences are from the reference, box by box."""

    start_seconds: float
    """From the process's start to the end of the warm-up, nothing kept from an earlier one."""
    restart_seconds: float
    """The same in the next process, with what the first kept."""
    processor_seconds: float
    """An image's, of all cores together, over the timed rounds: other work moves it less than it moves the time."""
    peak_memory: int
    """Bytes, of a process that holds nothing else."""
    ap: dict[str, float]
    """COCO's, 0 to 1, such as "mask/AP"."""
    detections: int
    unmatched: int
    """The reference's detections without one of the same label within a pixel."""
    largest_box_difference: float
    """Pixels of the image, among those that have a counterpart; so is the next."""
    largest_score_difference: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was found; the exit status is 1 where other processes disturbed the run."""
    options = _parser().parse_args(arguments)
    bundle, features = open_bundle(options.model), processor_features()
    data = evenly(_validation(options.data, bundle), options.ap_images)
    contenders, left_out = possible(bundle, features)
    told = told_features()
    print("\n".join([f"{processor_name()}: {', '.join(told) or 'features unknown'}", *left_out]), flush=True)
    timed = [record.path for record in evenly(data, options.images).images]
    comparison, found = compare(bundle, contenders, data, timed, options.threads, options.rounds)
    print(table(comparison))
    print(findings(comparison, found, len(timed)))
    if options.json is not None:
        comparison.details.update(features=told, left_out=left_out, ap_images=len(data), timed_images=len(timed))
        comparison.details["found"] = {name: asdict(one) for name, one in found.items()}
        write_json(options.json, comparison, packages=PACKAGES)
    return int(not comparison.valid)


def possible(bundle: Bundle, features: frozenset[str]) -> tuple[list[Contender], list[str]]:
    """Those that can run here, the reference first, and a line about each that cannot."""
    able, left_out = [], []
    for one in CONTENDERS:
        file = one.file or MODEL_FILES[one.kind]
        if find_spec(LIBRARIES[one.kind]) is None:
            left_out.append(f"{one.name}: {LIBRARIES[one.kind]} is not installed")
        elif file not in bundle.manifest.files:
            left_out.append(f"{one.name}: the bundle has no {file}")
        elif one.precision == "bf16" and not features & BF16_FEATURES:
            left_out.append(f"{one.name}: this processor has no bfloat16")
        else:
            able.append(one)
    return able, left_out


def compare(
    bundle: Bundle, contenders: Sequence[Contender], data: Dataset, timed: Sequence[Path], threads: int, rounds: int
) -> tuple[Comparison, dict[str, Found]]:
    """Starts each contender twice, has it answer all of `data`, then times `timed` in turns."""
    masks.warm_up()  # or the first contender would compile the kernels that all of them load
    keypoints.warm_up()
    task, most = bundle.manifest.architecture.task, bundle.manifest.defaults.max_detections
    starts: dict[str, float] = {}
    running: dict[str, Running] = {}
    answers: dict[str, list[Detections]] = {}
    with tempfile.TemporaryDirectory(prefix="maskserve-engines-") as cache:
        for one in contenders:
            first = Running(one, bundle.path, most, threads, Path(cache))
            first.end()
            starts[one.name] = first.start_seconds
            running[one.name] = Running(one, bundle.path, most, threads, Path(cache))
            answers[one.name] = running[one.name].detect([record.path for record in data.images])
        pids = {name: process.pid for name, process in running.items()}
        before = own_seconds(list(pids.values()))
        comparison = alternate(
            {name: partial(process.detect, timed) for name, process in running.items()},
            reference=REFERENCE.name,
            rounds=rounds,
            warmup=0,  # each has answered all images
            pids=pids.values(),
        )
        after = own_seconds(list(pids.values()))
        found = {
            name: Found(
                starts[name],
                process.start_seconds,
                (after[pids[name]] - before[pids[name]]) / (rounds * len(timed)),
                process.end(),
                evaluate_detections(data, answers[name], KINDS[task], limits(most)).headline(),
                *differences(answers[REFERENCE.name], answers[name]),
            )
            for name, process in running.items()
        }
    return comparison, found


def differences(expected: Sequence[Detections], actual: Sequence[Detections]) -> tuple[int, int, float, float]:
    """The last four of `Found`, over all images."""
    count = unmatched = 0
    box = score = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        count += len(ours)
        for row in range(len(theirs)):
            distance = np.abs(ours.boxes - theirs.boxes[row]).max(axis=1, initial=0.0)
            distance[ours.labels != theirs.labels[row]] = np.inf
            nearest = int(distance.argmin()) if len(distance) else -1
            if nearest < 0 or distance[nearest] > 1:
                unmatched += 1
                continue
            box = max(box, float(distance[nearest]))
            score = max(score, abs(float(ours.scores[nearest] - theirs.scores[row])))
    return count, unmatched, box, score


def findings(comparison: Comparison, found: Mapping[str, Found], images: int) -> str:
    """A line for each contender."""
    lines = []
    for name, one in found.items():
        figures = ", ".join(f"{what} {100 * value:.2f}" for what, value in one.ap.items() if what.endswith("/AP"))
        lines.append(
            f"{name}: {images / comparison[name].seconds.median:.2f} images/s, {figures}, "
            f"{one.processor_seconds:.2f} processor seconds an image, peak {one.peak_memory / 2**20:.0f} MiB, "
            f"start {one.start_seconds:.1f} s, again {one.restart_seconds:.1f} s; {one.detections} detections, "
            f"{one.unmatched} of the reference's not among them, boxes within {one.largest_box_difference:.2g} px, "
            f"scores within {one.largest_score_difference:.2g}"
        )
    return "\n".join(lines)


def _validation(folder: Path, bundle: Bundle) -> Dataset:
    task, names = bundle.manifest.architecture.task, bundle.manifest.class_names
    data = order_classes(load_split(Origin(folder), task, "val", rename={}, classes=()), names)
    if data.class_names != names:
        raise SystemExit(f"error: the bundle knows {', '.join(names)}, {folder} has {', '.join(data.class_names)}")
    return data


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset with a validation split")
    parser.add_argument("--ap_images", type=int, metavar="N", help="measure AP on so many images only")
    parser.add_argument("--images", type=int, default=24, metavar="N", help="so many of these are timed")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of an inference")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
