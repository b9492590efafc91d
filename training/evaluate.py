"""COCO AP of a bundle, run through the serving runtime.

python -m training.evaluate --model models/nuclei/1 --data DIR
python -m training.evaluate --model models/nuclei/1 --data DIR --engine torchscript --json figures.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from model.network.engine import EagerEngine
from model.network.weights import load_network
from model.runtime.bundle import Bundle, BundleError, open_bundle
from model.runtime.engines import DeviceChoice, EngineError, EngineKind
from model.runtime.predict import Predictor
from training.command_line import stop
from training.data.check import check, report
from training.data.coco import CocoError, find_splits, load_coco
from training.data.loader import UnreadableImage
from training.evaluation import Metrics
from training.validation import validate

EvaluatedEngine = Literal[EngineKind, "eager"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        bundle = open_bundle(options.model)
        architecture = bundle.manifest.architecture
        splits = find_splits(options.data, architecture.task)
        split = splits.train if options.split == "train" else splits.val
        if split is None:
            stop(f"{options.data} has no validation split; use --split train")
        data = load_coco(split.annotations, split.images)
        problems = check(data, architecture.task)
        if problems:
            stop(f"{split.annotations}:\n{report(problems)}")
        if data.class_names != bundle.manifest.class_names:
            stop(
                f"the bundle knows {', '.join(bundle.manifest.class_names)}, the data {', '.join(data.class_names)}: "
                f"the classes must be the same, in the same order"
            )
        predictor = make_predictor(bundle, options.engine, options.device, options.threads)
    except (BundleError, CocoError, EngineError) as error:
        stop(str(error))
    console = Console()
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("evaluating", total=len(data))
            outcome = validate(
                predictor,
                data,
                architecture.task,
                max_detections=options.max_detections,
                score_threshold=options.score_threshold,
                progress=lambda done: progress.update(task, completed=done),
            )
    except UnreadableImage as error:
        stop(str(error))
    console.print(table(outcome.metrics, f"{bundle.manifest.name}/{bundle.manifest.version} ({options.engine})"))
    if options.json is not None:
        options.json.write_text(outcome.metrics.model_dump_json(indent=2, exclude_none=True) + "\n")
    return 0


def make_predictor(bundle: Bundle, engine: EvaluatedEngine, device: DeviceChoice, threads: int | None) -> Predictor:
    """The bundle behind the chosen engine; "eager" is torchvision's own modules with the bundle's weights.

    Raises EngineError or BundleError when the bundle lacks what the engine needs.
    """
    if engine != "eager":
        return Predictor.of_bundle(bundle, engine, device, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_network(bundle)
    name = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    return Predictor(EagerEngine(model.to(name)), bundle.manifest.preprocessing)


def table(metrics: Metrics, title: str) -> Table:
    """Rows are the figures, columns boxes, masks or keypoints."""
    result = Table(title=title)
    kinds = {"box": metrics.box, "mask": metrics.mask, "keypoints": metrics.keypoints}
    result.add_column("")
    for name, kind in kinds.items():
        if kind is not None:
            result.add_column(name, justify="right")
    for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR"):
        values = [getattr(kind, figure) for kind in kinds.values() if kind is not None]
        result.add_row(figure, *("-" if value < 0 else f"{value:.4f}" for value in values))
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="COCO AP (box, mask, keypoint) of a bundle, run through the serving runtime.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="a bundle's folder, NAME/VERSION")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="COCO dataset folder")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="which images")
    parser.add_argument(
        "--engine", choices=(*get_args(EngineKind), "eager"), default="onnx", help="what runs the network"
    )
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all cores")
    parser.add_argument("--max_detections", type=int, default=100, help="detections an image that AP counts")
    parser.add_argument("--score_threshold", type=float, default=0.05, help="lowest score that is counted")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
