"""Accuracy for speed: time and COCO AP of a network as trained, with fewer proposals, a smaller input, and in INT8.

    python -m benchmarks.trades --model model/embedded/nuclei/1 --data DIR --json trades.json
    python -m benchmarks.trades --model runs/nuclei/checkpoints/best.pt --data DIR --proposals 300 --min_size 192

Timed is ONNX Runtime's engine alone, on the same validation images one at a time. Where INT8 misses its target, a
profile of both networks by operator says what is in the way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.evenly import evenly
from benchmarks.measure import Comparison, alternate, table, write_json
from model.architecture import ArchitectureConfig, Task
from model.network.build import Detector, build_unfilled
from model.network.exporting.export import export_onnx
from model.network.exporting.quantize import quantize_int8
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from model.runtime.engines.engine import INPUTS
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing, prepare, stack
from training.checkpoint import load_checkpoint
from training.data.annotations.dataset import Dataset
from training.data.loading.samples import load_stored
from training.data.loading.source import load_splits
from training.evaluation.validation import SCORE_THRESHOLD, validate
from training.publishing.gate import ap_differences
from training.publishing.trades import (
    CALIBRATION_IMAGES,
    MOST_AP_LOST,
    TradeOptions,
    calibration_batches,
    points_lost,
    rebuilt,
    traded_architecture,
)

AS_TRAINED, INT8 = "as trained", "int8"
INT8_SPEEDUP = 1.4
"""What INT8 has to reach, at no more than `MOST_AP_LOST`."""

PACKAGES = ("onnx", "onnxruntime-gpu", "torch", "torchvision")

Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Contender:
    """One network on disk and in its engine, and what it is fed."""

    file: Path
    predictor: Predictor
    feeds: tuple[Feeds, ...]

    def run(self) -> None:
        """All images once, one at a time."""
        for feed in self.feeds:
            self.predictor.engine.run(*(feed[name] for name in INPUTS))  # type: ignore[arg-type]  # one type for all three


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; the exit status is 1 where other processes took too much of the machine."""
    options = _parser().parse_args(arguments)
    model, architecture = _load(options.model)
    splits = load_splits(options.data, architecture.task)
    if splits.val is None:
        raise SystemExit(f"error: {options.data} has no validation split, on which AP is measured")
    val = evenly(splits.val, options.ap_images)
    images = [load_stored(record) for record in evenly(splits.val, options.images).images]
    trades = _trades(architecture, options)
    limit = options.max_detections or architecture.detections_per_image
    with tempfile.TemporaryDirectory(prefix="maskserve-trades-") as folder:
        contenders, figures = {}, {}
        for name, trade in trades.items():
            print(f"{name}: exporting and measuring AP", file=sys.stderr)
            file = Path(folder) / f"{name}.onnx"
            contender = _contender(file, model, architecture, trade, splits.train, images, options.threads)
            outcome = validate(contender.predictor, val, architecture.task, max_detections=limit)
            contenders[name], figures[name] = contender, outcome.metrics.headline()
        comparison = alternate(
            {name: contender.run for name, contender in contenders.items()},
            reference=AS_TRAINED,
            rounds=options.rounds,
            details={
                "settings": {name: str(value) for name, value in vars(options).items()},
                "metrics": figures,
                "operators": {},
            },
        )
        print(table(comparison))
        print(ap_table(comparison, figures))
        met, text = verdict(comparison, figures, architecture.task)
        print(text)
        if not met:
            for name in (AS_TRAINED, INT8):
                seconds = operator_seconds(contenders[name].file, contenders[name].feeds, options.threads)
                comparison.details["operators"][name] = seconds
                print(operator_table(name, seconds))
    if options.json is not None:
        write_json(options.json, comparison, packages=PACKAGES)
    return 0 if comparison.valid else 1


def ap_table(comparison: Comparison, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Speedup, every AP (0 to 100) and its difference from the network as trained, a line for each contender."""
    lines = []
    for timing in comparison.timings:
        own = figures[timing.name]
        deltas = ap_differences(figures[AS_TRAINED], own)
        aps = "".join(f"   {name} {100 * own[name]:6.2f} ({100 * delta:+.2f})" for name, delta in deltas.items())
        lines.append(f"{timing.name:22} {timing.speedup:5.2f}x{aps}")
    return "\n".join(lines)


def verdict(comparison: Comparison, figures: Mapping[str, Mapping[str, float]], task: Task) -> tuple[bool, str]:
    """Whether INT8 reaches its targets, and the sentence that says so."""
    speedup = comparison[INT8].speedup
    lost = points_lost(ap_differences(figures[AS_TRAINED], figures[INT8]), task)
    met = speedup >= INT8_SPEEDUP and lost <= MOST_AP_LOST
    return met, (
        f"INT8 {speedup:.2f}x (at least {INT8_SPEEDUP}), {lost:.2f} points of AP lost (at most {MOST_AP_LOST}): "
        f"{'met' if met else 'MISSED'}"
    )


def operator_seconds(file: Path, feeds: Sequence[Feeds], threads: int) -> dict[str, float]:
    """Seconds in each kind of operator over all of `feeds`, by ONNX Runtime's profiler, the longest first."""
    with tempfile.TemporaryDirectory(prefix="maskserve-profile-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    seconds: Counter[str] = Counter()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            seconds[event["args"]["op_name"]] += event["dur"] / 1e6
    return dict(seconds.most_common())


def operator_table(name: str, seconds: Mapping[str, float], longest: int = 12) -> str:
    """The operators that take longest, with their share of all."""
    total = sum(seconds.values())
    lines = [f"{name}: {total:.3f} s in operators"]
    for operator, spent in list(seconds.items())[:longest]:
        lines.append(f"  {operator:28} {spent * 1e3:9.1f} ms {spent / total:6.1%}")
    return "\n".join(lines)


def _load(path: Path) -> tuple[Detector, ArchitectureConfig]:
    """A bundle's network, or a checkpoint's."""
    if path.is_dir():
        bundle = open_bundle(path)
        return load_network(bundle), bundle.manifest.architecture
    loaded = load_checkpoint(path)
    architecture = loaded.train_config().architecture
    model = build_unfilled(architecture)
    model.load_state_dict(loaded.published_state)
    return model.eval(), architecture


def _trades(architecture: ArchitectureConfig, options: argparse.Namespace) -> dict[str, TradeOptions]:
    proposals = options.proposals or architecture.rpn_post_nms_top_n_test // 2
    min_size = options.min_size or architecture.min_size * 3 // 4
    quantized = TradeOptions("alone", calibration_images=options.calibration_images)
    return {
        AS_TRAINED: TradeOptions(),
        f"proposals {proposals}": TradeOptions(proposals=proposals),
        f"min_size {min_size}": TradeOptions(min_size=min_size),
        INT8: quantized,
        f"int8, proposals {proposals}": replace(quantized, proposals=proposals),
    }


def _contender(
    file: Path,
    model: Detector,
    architecture: ArchitectureConfig,
    trade: TradeOptions,
    train: Dataset,
    images: Sequence[NDArray[np.uint8]],
    threads: int,
) -> Contender:
    architecture = traded_architecture(architecture, trade)
    preprocessing = Preprocessing.from_architecture(architecture)
    export_onnx(rebuilt(model, architecture), file)
    if trade.int8:
        quantize_int8(file, file, calibration_batches(train, preprocessing, trade.calibration_images))
    feeds: list[Feeds] = []
    for image in images:
        pixels, sizes = stack([prepare(image, preprocessing)])
        threshold = np.full(1, SCORE_THRESHOLD, np.float32)
        feeds.append(dict(zip(INPUTS, (pixels, sizes, threshold), strict=True)))
    engine = OnnxEngine(file, architecture.task, "cpu", threads)
    return Contender(file, Predictor(engine, preprocessing), tuple(feeds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trades", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="a checkpoint or a bundle's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset with a validation split")
    parser.add_argument("--proposals", type=int, metavar="N", help="default: half of the network's")
    parser.add_argument("--min_size", type=int, metavar="N", help="default: three quarters of the network's")
    parser.add_argument("--calibration_images", type=int, default=CALIBRATION_IMAGES, metavar="N", help="for INT8")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="validation images that are timed")
    parser.add_argument("--ap_images", type=int, metavar="N", help="validation images for AP; default: all")
    parser.add_argument("--max_detections", type=int, metavar="N", help="that AP counts; default: the network's most")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of an inference")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
