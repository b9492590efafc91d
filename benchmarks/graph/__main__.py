"""Mask R-CNN R50-FPN on a CPU: the exported graph beside torchvision's eager model, and beside what the cores can do.

    python -m benchmarks.graph --json graph.json                      800x1056 pixels, 2 threads
    python -m benchmarks.graph --bundle model/embedded/nuclei/1 --images model/samples/nuclei/fluorescence.png

Both sides start from uint8 pixels and end with COCO's strings, with the same weights and threads. Answers are checked
before anything is timed. Then, in steps that `--only` chooses from:

- cases: everything above torchvision's threshold, and a threshold that leaves at most ten detections. There torchvision
  runs as its users run it, filtered afterwards, and once more with its own threshold set.
- work: the operations that the asked detections need, and which share of the rate of a large matrix product, measured
  in the same rounds, the engine alone and the whole way reach.
- profile: ONNX Runtime's time by operator type.
- throughput: the cores shared out among sessions, and batches.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.case import FULL, TINY, make_batch, make_case
from benchmarks.graph.work import (
    PRODUCT_NAMES,
    Operator,
    Profiled,
    TooFewDetections,
    WrongAnswer,
    agree,
    count_flops,
    products,
    threshold_for,
    torchvision_predict,
    weigh,
)
from benchmarks.measure import Comparison, alternate, table, write_json
from benchmarks.peers.network import ARCHITECTURE, WEIGHTS, build
from benchmarks.peers.prepare import NotTorchvisionsError, prepare
from model.network.exporting.export import export_onnx
from model.runtime import preprocess
from model.runtime.bundles.bundle import BundleError, open_bundle
from model.runtime.bundles.manifest import NETWORK_FILE
from model.runtime.detections import Detections
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.images.decode import load_image
from model.runtime.images.errors import ImageError
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing

PACKAGES = ("torch", "torchvision", "onnxruntime-gpu", "numba", "pycocotools")
STEPS = ("cases", "work", "profile", "throughput")
IMAGES = 2
ALL, FEW = "all detections", "10 or fewer"
OURS, ENGINE, TORCHVISION, TOLD = "maskserve", "maskserve, engine alone", "torchvision", "torchvision, threshold set"
PLAIN, PROFILED = "engine", "engine, profiled"

SPEEDUPS = {ALL: 1.8, FEW: 2.3}
"""Wanted of the R50-FPN, over torchvision as its users run it."""
LEAST_SHOWN = 0.005
"""Share of a run from which on an operator type is printed; the JSON has all."""
LEAST_SHARE = 0.9
"""Wanted share of a matrix product's rate."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """What is measured: torchvision's own model in eval mode, and the same network exported to `file`.

    images: uint8 [H, W, 3] each. few: at most so many detections are left in the second case. side: of the products.
    """

    model: Any
    file: Path
    preprocessing: Preprocessing
    images: list[Image]
    few: int
    side: int = 2048

    def predictor(self, threads: int, batch_size: int = 1) -> Predictor:
        """A session of its own."""
        return Predictor(OnnxEngine(self.file, "masks", "cpu", threads), self.preprocessing, batch_size)


def preset(folder: Path, *, quick: bool) -> Subject:
    """The R50-FPN preset at a size that neither side resizes, or a tiny network; exported into `folder`."""
    scale = TINY if quick else replace(FULL, width=1056)
    cpu = torch.device("cpu")
    case = make_case(scale, cpu)
    pixels = make_batch(scale, IMAGES, cpu, seed=1).images[:, : scale.height, : scale.width]
    export_onnx(case.model, folder / NETWORK_FILE)
    preprocessing = Preprocessing(min_size=scale.height, max_size=scale.width)
    images = [np.ascontiguousarray(image) for image in pixels.numpy()]
    size = {"few": 3, "side": 256} if quick else {"few": 10}
    return Subject(case.model, folder / NETWORK_FILE, preprocessing, images, **size)


def of_bundle(path: Path, images: Sequence[Path], folder: Path) -> Subject:
    """A bundle's network, and the same from torchvision's parts alone.

    Raises BundleError, NotTorchvisionsError, ImageError, or OSError for a picture that cannot be read.
    """
    bundle = open_bundle(path)
    prepare(bundle, folder)
    model = build(json.loads((folder / ARCHITECTURE).read_text()))
    model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    pixels = [np.array(load_image(image)) for image in images]  # torch wants them writable
    return Subject(model.eval(), bundle.file(NETWORK_FILE), bundle.manifest.preprocessing, pixels, 10)


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
            if comparison.reference == TORCHVISION:
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
