"""COCO figures of a bundle, a checkpoint or a running server, and how it does at an operating point.

maskserve evaluate --model models/nuclei/1 --data DIR --report report
maskserve evaluate --model models/nuclei/1 --data DIR --engine torchscript --json figures.json
maskserve evaluate --model runs/nuclei/checkpoints/best.pt --data DIR
maskserve evaluate --model http://127.0.0.1:8000 --data DIR
maskserve evaluate --results found/results.json --data DIR
maskserve evaluate --model models/bikes/1 --data DIR --rename bicycle=bike --classes bike
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from model.console.arguments import Parser, number, whole
from model.console.outputs import write_whole
from model.console.running import interruptible
from model.runtime.bundles.bundle import BundleError
from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.engines.engine import EngineError, EngineKind
from training.checkpoint import CheckpointError
from training.command_line import require_writable, stop, unbroken_console
from training.data.annotations.classes import add_class_flags, order_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import add_broken_flag
from training.data.checking.overwriting import require_apart
from training.data.formats.locate import Origin, add_origin_flags, origin_of
from training.data.hold_out import add_hold_out_flags
from training.data.loading.samples import UnreadableImage
from training.data.loading.source import DataStop, choose_split, load_divided, load_split, sound
from training.evaluation.evaluated import Evaluated, open_model
from training.evaluation.evaluation import ALL_KINDS, evaluate_detections
from training.evaluation.instances import instances
from training.evaluation.matching import MATCHED_BY, match_detections
from training.evaluation.operating_point import operating_point
from training.evaluation.own_split import divide_as_in_training
from training.evaluation.remote import KEY_VARIABLE, RemoteError
from training.evaluation.report import PAGE, Report, write_report
from training.evaluation.results import ResultsError, open_results
from training.evaluation.tables import (
    class_table,
    confusion_table,
    confusions,
    figure_table,
    instance_table,
    point_table,
)
from training.evaluation.validation import SCORE_THRESHOLD, limits
from training.progress import Display


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.operating_point is not None and not options.score_threshold <= options.operating_point < 1:
        stop(f"--operating_point {options.operating_point:g}: give a score from --score_threshold to below 1")
    require_writable("--json", options.json, folder=False)
    require_writable("--report", options.report)
    try:
        evaluated = _opened(options)
        origin = origin_of(options, options.data)
        data = _chosen(options, origin, evaluated)
    except (BundleError, CheckpointError, DataStop, DatasetError, EngineError, RemoteError, ValueError) as error:
        stop(str(error))
    page = None if options.report is None else options.report / PAGE
    require_apart({"--json": options.json, "--report": page}, origin, [data], Path(options.model or options.results))
    try:
        with Display() as display, display.bar("evaluating", len(data)) as done:
            detections = evaluated.detect(
                data,
                max_detections=options.max_detections,
                score_threshold=options.score_threshold,
                progress=done,
            )
    except (RemoteError, ResultsError, UnreadableImage) as error:
        stop(str(error))
    task = evaluated.task
    metrics = evaluate_detections(data, detections, ALL_KINDS[task], limits(options.max_detections))
    matches = match_detections(data, detections, MATCHED_BY[task])
    point = operating_point(
        matches,
        data.class_names,
        options.score_threshold,
        evaluated.defaults.score_threshold,
        options.operating_point,
    )
    apart = instances(matches, data.class_names, [one.threshold for one in point.classes])
    console = unbroken_console()
    console.print(figure_table(metrics, evaluated.title))
    console.print(point_table(point, MATCHED_BY[task]))
    console.print(instance_table(apart))
    if len(point.classes) > 1:
        console.print(class_table(metrics))
        if confusions(point):
            console.print(confusion_table(point))
    figures = metrics.model_dump(exclude_none=True) | {
        "operating_point": point.model_dump(),
        "instances": apart.model_dump(),
    }
    try:
        if options.json is not None:
            write_whole(options.json, f"{json.dumps(figures, indent=2)}\n".encode())
        if options.report is not None:
            report = Report(evaluated.title, data, detections, matches, metrics, point, apart)
            console.print(f"report: {write_report(options.report, report)}", highlight=False, soft_wrap=True)
    except UnreadableImage as error:
        stop(str(error))
    except OSError as error:
        stop(f"cannot write {error.filename}: {error.strerror}")
    return 0


def _opened(options: argparse.Namespace) -> Evaluated:
    """Raises as `open_model` and `open_results`."""
    if options.results is None:
        return open_model(options.model, options.engine, options.device, options.threads, options.precision)
    own = (options.engine, options.precision, options.threads)
    if own != (None, None, None) or options.device != "auto":
        raise ValueError("results are there already: leave out --engine, --precision, --device and --threads")
    return open_results(options.results)


def _chosen(options: argparse.Namespace, origin: Origin, evaluated: Evaluated) -> Dataset:
    """The split that is asked for, checked, its classes in the model's order. Raises DatasetError and DataStop; stops
    where the classes are others."""
    if options.val is None:
        found = load_split(origin, evaluated.task, options.split, rename=options.rename, classes=options.classes)
    else:
        read = partial(load_divided, origin, evaluated.task, rename=options.rename, classes=options.classes)
        asked = (options.val, options.seed)
        own = divide_as_in_training(read, evaluated.learned, asked, evaluated.task, evaluated.class_names or ())
        print(own.line, file=sys.stderr)
        found = choose_split(own.splits, options.split, origin)
    kept = sound(found, evaluated.task, options.on_broken, decoded=evaluated.intensity, channels=evaluated.channels)
    if evaluated.class_names is None:
        return kept
    data = order_classes(kept, evaluated.class_names)
    if data.class_names != evaluated.class_names:
        stop(
            f"the model knows {', '.join(evaluated.class_names)}, the data {', '.join(data.class_names)}: "
            f"the classes must be the same; give the --rename and --classes of its training"
        )
    return data


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="maskserve evaluate",
        description="COCO figures of a model, run through the serving runtime or asked of a running server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    evaluated = parser.add_mutually_exclusive_group(required=True)
    evaluated.add_argument(
        "--model",
        metavar="MODEL",
        help="a bundle's folder (NAME/VERSION), a checkpoint (FILE.pt), or a running server's address, "
        f"http://HOST:PORT or http://HOST:PORT/models/NAME (key in {KEY_VARIABLE})",
    )
    evaluated.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="in place of a model what one has found: COCO results, with the dataset's ids of images and categories",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset folder in any format of docs/formats.md")
    add_origin_flags(parser)
    parser.add_argument("--split", default="val", metavar="NAME", help="which images: val, train, test or another")
    add_class_flags(parser)
    add_hold_out_flags(parser)
    add_broken_flag(parser)
    parser.add_argument(
        "--engine",
        choices=(*get_args(EngineKind), "eager"),
        default=None,
        help="what runs a bundle's network; default: onnx",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(PrecisionChoice),
        default=None,
        help="what a bundle's network computes in, as the server's setting of this name; default: f32",
    )
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=whole(1), default=None, help="CPU threads; default: all cores")
    parser.add_argument("--max_detections", type=whole(1), default=100, help="detections an image that AP counts")
    parser.add_argument(
        "--score_threshold", type=number(0, 1), default=SCORE_THRESHOLD, help="lowest score that is counted"
    )
    parser.add_argument(
        "--operating_point",
        type=float,
        default=None,
        metavar="SCORE",
        help="score at which objects are counted as found, missed or confused; default: each class's best",
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--report", type=Path, default=None, metavar="DIR", help="write a page with curves and the worst images here"
    )
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
