"""Mask R-CNN R50-FPN on a CPU: the exported graph beside torchvision's eager model, and beside what the cores can do.

    python -m benchmarks.graph --json graph.json                      800x1056 pixels, 2 threads
    python -m benchmarks.graph --bundle model/embedded/nuclei/1 --images model/samples/nuclei/fluorescence.png

Both sides start from uint8 pixels and end with COCO's strings, with the same weights and threads. Answers are checked
before anything is timed. Then, in steps that `--only` chooses from:

- cases: everything above torchvision's threshold, and a threshold that leaves at most ten detections. There torchvision
  runs as its users run it, filtered afterwards, and once more with its own threshold set.
- work: the operations that the asked detections need, and which share of the rate of a large matrix product, measured
  in the same rounds, the engine alone and the whole way reach.
- bfloat16: everything above torchvision's threshold, OpenVINO and torchvision both in bfloat16 and both in float32,
  where the processor computes in it. How alike the answers are is told: in another precision they are not the same.
- profile: ONNX Runtime's time by operator type.
- throughput: the cores shared out among sessions, and batches.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.graph.subject import Image, Subject, of_bundle, preset
from benchmarks.graph.work import (
    PRODUCT_NAMES,
    Operator,
    Profiled,
    TooFewDetections,
    WrongAnswer,
    agree,
    count_flops,
    found_again,
    products,
    threshold_for,
    torchvision_predict,
    weigh,
)
from benchmarks.measure import Comparison, alternate, table, write_json
from benchmarks.peers.prepare import NotTorchvisionsError
from model.runtime import preprocess
from model.runtime.bundles.bundle import BundleError
from model.runtime.detections import Detections
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.engine import EngineError
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.images.errors import ImageError
from model.runtime.predict import Predictor

PACKAGES = ("torch", "torchvision", "onnxruntime-gpu", "openvino", "numba", "pycocotools")
STEPS = ("cases", "work", "bfloat16", "profile", "throughput")
ALL, FEW = "all detections", "10 or fewer"
OURS, ENGINE, TORCHVISION, TOLD = "maskserve", "maskserve, engine alone", "torchvision", "torchvision, threshold set"
IN_BFLOAT16 = {OURS: "maskserve, OpenVINO bf16", TORCHVISION: "torchvision, bf16"}
PLAIN, PROFILED = "engine", "engine, profiled"

SPEEDUPS = {ALL: 1.8, FEW: 2.3}
"""Wanted of the R50-FPN, over torchvision as its users run it."""
BFLOAT16_SPEEDUP = 3.0
"""Wanted of the R50-FPN, over the faster of torchvision's two precisions, where the processor computes in bfloat16."""
LEAST_SHOWN = 0.005
"""Share of a run from which on an operator type is printed; the JSON has all."""
LEAST_SHARE = 0.9
"""Wanted share of a matrix product's rate."""


class Run:
    """The steps on one subject. WrongAnswer, before anything is timed, where an answer is not torchvision's."""

    def __init__(self, subject: Subject, options: argparse.Namespace) -> None:
        self.subject, self.options = subject, options
        self.predictor = subject.predictor(options.threads)
        self.comparisons: list[Comparison] = []
        first = self._checked(self.predictor, subject.images[0], subject.model.roi_heads.score_thresh)
        self.thresholds = {
            ALL: float(subject.model.roi_heads.score_thresh),
            FEW: threshold_for(first.scores, subject.few),
        }

    def _checked(self, predictor: Predictor, image: Image, threshold: float) -> Detections:
        (answer,) = predictor.predict([image], threshold)
        agree(answer, torchvision_predict(self.subject.model, image, threshold))
        return answer

    def _inputs(self, threshold: float) -> tuple[Image, NDArray[np.int64], NDArray[np.float32]]:
        prepared = preprocess.prepare(self.subject.images[0], self.subject.preprocessing)
        return *preprocess.stack([prepared]), np.full(1, threshold, np.float32)

    def _keep(self, comparison: Comparison, title: str) -> None:
        self.comparisons.append(comparison)
        print(f"\n{title}\n{table(comparison)}", flush=True)

    def time_case(self, name: str) -> None:
        """Cases and work of one case, in the same rounds."""
        subject, threshold, steps = self.subject, self.thresholds[name], self.options.only
        image, inputs = subject.images[0], self._inputs(threshold)
        (ours,) = self.predictor.predict([image], threshold)
        details: dict[str, Any] = {"step": "case", "case": name, "threshold": threshold, "detections": len(ours)}
        contenders: dict[str, Callable[[], object]] = {}
        theirs = partial(torchvision_predict, subject.model, image, threshold)
        details["agreement"] = {TORCHVISION: asdict(agree(ours, theirs()))}
        if "cases" in steps:
            contenders[TORCHVISION] = theirs
            if name == FEW:
                contenders[TOLD] = partial(theirs, told=True)
                details["agreement"][TOLD] = asdict(agree(ours, theirs(told=True)))
        contenders[OURS] = lambda: self.predictor.predict([image], threshold)
        if "work" in steps:
            contenders[ENGINE] = lambda: self.predictor.engine.run(*inputs)
            contenders.update(products(subject.side, self.options.threads))
        comparison = alternate(
            contenders,
            reference=TORCHVISION if "cases" in steps else OURS,
            rounds=self.options.rounds,
            warmup=0,  # the answers have been looked at, and `products` has run
            details=details,
        )
        self._keep(comparison, f"{name}: {len(ours)} detections above {threshold:.3f}, {self.options.threads} threads")
        if "work" in steps:
            flops = count_flops(subject.model, inputs[0], inputs[1], threshold)
            medians = {name: comparison[name].seconds.median for name in (OURS, ENGINE, *PRODUCT_NAMES)}
            work = weigh(flops, medians, subject.side)
            comparison.details["work"] = asdict(work)
            for contender, share in work.shares.items():
                print(
                    f"{contender}: {share.gflop:.1f} GFLOP at {share.gflop_per_second:.1f} GFLOP/s, "
                    f"{share.share:.1%} of the {work.rate:.1f} of a matrix product"
                )

    def in_bfloat16(self) -> None:
        """All detections, each side in both precisions."""
        model, image, threshold = self.subject.model, self.subject.images[0], self.thresholds[ALL]
        try:
            half = self.subject.in_bfloat16(self.options.threads)
        except (ImportError, EngineError) as error:
            print(f"\nbfloat16 is left out: {error}", flush=True)
            return
        contenders: dict[str, Callable[[], Detections]] = {
            TORCHVISION: partial(torchvision_predict, model, image, threshold),
            IN_BFLOAT16[TORCHVISION]: partial(torchvision_predict, model, image, threshold, bfloat16=True),
            OURS: lambda: self.predictor.predict([image], threshold)[0],
            IN_BFLOAT16[OURS]: lambda: half.predict([image], threshold)[0],
        }
        answers = {name: contender() for name, contender in contenders.items()}
        alike = {name: found_again(answer, answers[TORCHVISION]) for name, answer in answers.items()}
        comparison = alternate(
            contenders,
            reference=TORCHVISION,
            rounds=self.options.rounds,
            details={"step": "bfloat16", "case": ALL, "threshold": threshold, "found_again": alike},
        )
        self._keep(comparison, f"bfloat16: {len(answers[OURS])} detections, {self.options.threads} threads")
        for name, share in alike.items():
            print(f"{name:28} finds {share:.1%} of what torchvision finds in float32")

    def profile(self, name: str) -> None:
        """Operator types, from a second session whose profiler's own cost shows beside the engine."""
        inputs, engine = self._inputs(self.thresholds[name]), self.predictor.engine
        assert isinstance(engine, OnnxEngine)
        rounds = min(3, self.options.rounds)
        with tempfile.TemporaryDirectory() as folder:
            profiled = Profiled(engine, self.subject.file, Path(folder))
            comparison = alternate(
                {PLAIN: lambda: engine.run(*inputs), PROFILED: lambda: profiled.run(*inputs)},
                reference=PLAIN,
                rounds=rounds,
                details={"step": "profile", "case": name, "threshold": self.thresholds[name]},
            )
            operators = profiled.end(rounds)
        comparison.details["operators"] = {kind: asdict(operator) for kind, operator in operators.items()}
        self._keep(comparison, f"profile, {name}")
        print(_operator_table(operators))

    def throughput(self) -> None:
        """Images a second: as many images for each layout of sessions, threads and batch."""
        threshold, cores = self.thresholds[ALL], usable_cores()
        layouts = [(1, cores, 1), (cores, 1, 1), (1, cores, 2), (1, cores, 4)]
        if cores >= 4 and cores % 2 == 0:
            layouts.append((cores // 2, 2, 1))
        count = math.lcm(4, cores)
        images = [self.subject.images[index % len(self.subject.images)] for index in range(count)]
        expected = [self._checked(self.predictor, image, threshold) for image in self.subject.images]
        contenders: dict[str, Callable[[], object]] = {}
        with ThreadPoolExecutor(cores) as pool:
            for sessions, threads, batch in dict.fromkeys(layouts):
                layout = [self.subject.predictor(threads, batch) for _ in range(sessions)]
                run = partial(_share_out, pool, layout, images, threshold)
                for index, answer in enumerate(run()):
                    agree(answer, expected[index % len(expected)])
                contenders[f"{sessions} x {threads} threads, batch {batch}"] = run
            comparison = alternate(
                contenders,
                reference=next(iter(contenders)),
                rounds=self.options.rounds,
                warmup=0,  # its answers have been looked at
                details={"step": "throughput", "threshold": threshold, "images": count, "cores": cores},
            )
        self._keep(comparison, f"throughput: {count} images on {cores} cores by sessions x threads")
        comparison.details["images_per_second"] = {t.name: count / t.seconds.median for t in comparison.timings}
        for layout_name, rate in comparison.details["images_per_second"].items():
            print(f"{layout_name:28} {rate:8.3f} images/s")

    def verdicts(self) -> list[str]:
        """What is wanted of the R50-FPN beside what was found."""
        lines = []
        for comparison in self.comparisons:
            found = []
            if comparison.details["step"] == "bfloat16":
                fastest = min(comparison[name].seconds.median for name in (TORCHVISION, IN_BFLOAT16[TORCHVISION]))
                over = fastest / comparison[IN_BFLOAT16[OURS]].seconds.median
                found.append(("bf16: over torchvision's faster precision", over, BFLOAT16_SPEEDUP, "x"))
            elif comparison.reference == TORCHVISION:
                name = comparison.details["case"]
                found.append((f"{name}: over torchvision", comparison[OURS].speedup, SPEEDUPS[name], "x"))
            for contender, share in comparison.details.get("work", {}).get("shares", {}).items():
                label = f"{comparison.details['case']}: share of the rate, {contender}"
                found.append((label, 100 * share["share"], 100 * LEAST_SHARE, " %"))
            for label, value, wanted, unit in found:
                verdict = "INVALID run" if not comparison.valid else "reached" if value >= wanted else "missed"
                lines.append(f"{label:60} {value:7.2f}{unit:2}  wanted: {wanted:g}{unit} or more: {verdict}")
        return lines


def _operator_table(operators: Mapping[str, Operator]) -> str:
    lines = [f"{'operators':24} {'calls':>7} {'ms':>10} {'share':>7}"]
    shown = {kind: one for kind, one in operators.items() if one.share >= LEAST_SHOWN}
    for kind, one in shown.items():
        lines.append(f"{kind:24} {one.calls:7.0f} {one.milliseconds:10.2f} {one.share:7.1%}")
    return "\n".join([*lines, f"and {len(operators) - len(shown)} types of less than {LEAST_SHOWN:.1%} each"])


def _share_out(
    pool: ThreadPoolExecutor, predictors: Sequence[Predictor], images: Sequence[Image], threshold: float
) -> list[Detections]:
    """The same number of images for each predictor, on a thread of its own."""
    each = len(images) // len(predictors)
    parts = [images[start : start + each] for start in range(0, len(images), each)]
    work = pool.map(lambda predictor, part: predictor.predict(part, threshold), predictors, parts)
    return [answer for answers in work for answer in answers]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; the exit status is 1 when an answer was wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.bundle is None) != (options.images is None):
        parser.error("--bundle and --images go together: a network and pictures for it")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if options.bundle is None:
                subject = preset(Path(folder), quick=options.quick)
            else:
                subject = of_bundle(options.bundle, options.images, Path(folder))
            run = Run(subject, options)
            for name in (ALL, FEW):
                if "cases" in options.only or "work" in options.only:
                    run.time_case(name)
                if "profile" in options.only:
                    run.profile(name)
            if "bfloat16" in options.only:
                run.in_bfloat16()
            if "throughput" in options.only:
                run.throughput()
        except (BundleError, NotTorchvisionsError, ImageError, OSError, TooFewDetections, WrongAnswer) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if options.bundle is None:
        print("\n" + "\n".join(run.verdicts()))
    if options.json is not None:
        settings = {name: str(value) for name, value in vars(options).items()}
        for comparison in run.comparisons:
            comparison.details["settings"] = settings
        write_json(options.json, *run.comparisons, packages=PACKAGES)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graph", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of either side; throughput takes every core")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each step")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, help="steps")
    parser.add_argument("--quick", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="a bundle NAME/VERSION instead of the R50-FPN")
    parser.add_argument("--images", type=Path, nargs="+", metavar="FILE", help="with --bundle: pictures not resized")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
