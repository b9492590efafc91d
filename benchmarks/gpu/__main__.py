"""Mask R-CNN R50-FPN at 800x1333 in everything that can run it on this machine's GPU, beside torchvision eager.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --device cpu --dry-run        the same steps, tiny, anywhere

Answers are checked before anything is timed. A contender that is not installed is named with the reason. Timed in
turns, from pinned host memory to arrays on the host, under PyTorch's defaults (TF32 in float32's convolutions), with
cuDNN's autotuning for everybody; checked without TF32. What was found so far is written after every step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.answers import agree
from benchmarks.gpu.case import FULL, SPREADS, THRESHOLD, TINY, Case, make_batch, make_case
from benchmarks.gpu.contenders import (
    BASELINES,
    COMPILED,
    CONTENDERS,
    REFERENCE,
    Contender,
    Skip,
    half_compiled,
    half_eager,
    torchvision_eager,
)
from benchmarks.gpu.pipeline import run_pipeline
from benchmarks.gpu.report import ONNX, best, reached, text
from benchmarks.gpu.served import serve
from benchmarks.gpu.stages import count_syncs, floor, measure_rates, measure_work, stage_times
from benchmarks.gpu.wanted import WANTED
from benchmarks.measure import Comparison, alternate, write_json
from model.network.graph.static import StaticGraph
from model.network.serving.again import INEXACT
from model.network.serving.checking import MOST_ERROR, layer_errors

PACKAGES = ("torch", "torchvision", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numba")
CHECKED_IMAGES = 2
TIMED_SHARE = 0.55
"""Of all the time, for checking and timing; the rest is for stages, pipeline, compiling and the service."""
COMPILE_SECONDS = 150
"""Compiling is not begun with less time left than this."""
SERVICE_SECONDS, EXPORT_SECONDS = 20, 90


class Run:
    """One run's state: what is left of its time, and what it has found."""

    def __init__(self, options: argparse.Namespace, case: Case) -> None:
        self.options, self.case = options, case
        self.contenders: dict[str, Contender] = {}
        self.spent: dict[str, float] = {}
        self.comparisons: list[Comparison] = []
        self.findings: dict[str, Any] = {"skipped": {}, "answers": {}, "layer_errors": {}, "syncs": {}}

    @property
    def left(self) -> float:
        return float(self.options.end - time.monotonic())

    @property
    def right(self) -> list[str]:
        """Contenders whose answers were right."""
        return [name for name, check in self.findings["answers"].items() if check["good"] and name not in BASELINES]

    def save(self) -> None:
        if self.options.json is not None and self.comparisons:
            self.comparisons[0].details["findings"] = self.findings
            write_json(self.options.json, *self.comparisons, packages=PACKAGES)

    def attempt(self, name: str, call: Callable[[], object]) -> bool:
        """Whether it worked; otherwise the reason is kept. Counts its time."""
        start = time.monotonic()
        try:
            call()
        except Skip as reason:
            self.findings["skipped"][name] = str(reason)
        except Exception as error:  # one contender's failure, of whatever kind, is a finding and not the run's end
            self.findings["skipped"][name] = f"{type(error).__name__}: {str(error)[:300]}"
        else:
            return True
        finally:
            self.spent[name] = self.spent.get(name, 0) + time.monotonic() - start
        self.contenders.pop(name, None)
        return False

    def check(self, name: str, make: Callable[[Case], Contender]) -> None:
        """Makes a contender, looks whether its answer is right, and counts how often it waits."""
        batch = make_batch(self.case.scale, CHECKED_IMAGES, self.case.device, seed=5)
        with _without_tf32():
            reference = torchvision_eager(self.case).run(batch)
            contender = make(self.case)
            contender.run(batch)
            agreement = agree(contender.run(batch), reference, contender.precision, len(batch))
            self.findings["answers"][name] = asdict(agreement)
            self.findings["syncs"][name] = count_syncs(lambda: contender.run(batch), self.case.device)
            if contender.engine is not None and contender.precision != "fp32":
                graph = contender.engine.graph
                errors = layer_errors(StaticGraph(self.case.model).eval(), graph, batch.images, batch.sizes)
                self.findings["layer_errors"][name] = errors
                if not max(errors.values()) < MOST_ERROR[graph.dtype]:  # NaN is too much
                    self.findings["answers"][name]["good"] = False
                    raise Skip(f"its layers are too far from float32's: {errors}")
        contender.close()
        if not agreement.good and name not in BASELINES:
            raise Skip(f"its answer is not torchvision's: {agreement}")
        self.contenders[name] = contender

    def time(self, size: int, names: Sequence[str]) -> None:
        """Times the contenders at one batch size, in turns."""
        batch = make_batch(self.case.scale, size, self.case.device, seed=7)
        seconds: dict[str, float] = {}

        def warm(name: str) -> None:
            contender = self.contenders[name]
            try:
                contender.run(batch)
                start = time.perf_counter()
                contender.run(batch)
            except torch.OutOfMemoryError:
                self.findings["skipped"][f"{name} at batch {size}"] = "out of the GPU's memory"
                contender.close()
            else:
                seconds[name] = time.perf_counter() - start

        for name in names:
            self.attempt(name, partial(warm, name))
        if REFERENCE not in seconds:
            return
        affordable = int(self.budget / len(self.options.batches) / sum(seconds.values()))
        comparison = alternate(
            {name: partial(self.contenders[name].run, batch) for name in seconds},
            reference=REFERENCE,
            rounds=min(self.options.rounds, max(3, affordable)),
            warmup=1,
            details={"batch": size, "peak_memory_bytes": _peak_memory(self.case.device)},
        )
        self.comparisons.append(comparison)
        for contender in self.contenders.values():
            contender.close()
        if self.case.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def budget(self) -> float:
        """Seconds for the rounds of all batch sizes: half of the timed share."""
        return float(self.options.minutes * 60 * TIMED_SHARE / 2)

    def time_all(self) -> None:
        """Every batch size while there is time, the most telling ones first. Who has used its time up stays out."""
        last = self.options.minutes * 60 * (1 - TIMED_SHARE)
        each = self.options.minutes * 60 * TIMED_SHARE / 4
        for size in self.options.batches:
            if self.comparisons and self.left < last:
                self.findings["skipped"][f"batch {size}"] = "no time was left"
                continue
            within = [name for name in self.contenders if name == REFERENCE or self.spent[name] < each]
            self.attempt(f"batch {size}", partial(self.time, size, within))
            self.save()
        for name in self.contenders:
            if name != REFERENCE and self.spent[name] >= each:
                self.findings["skipped"][name] = f"used its {each:.0f} s up: not timed at every batch size"

    def look_inside(self) -> None:
        """Stages, operations and floors of the half graph, kernel by kernel, at the fastest one's batch size."""
        found = best(self.comparisons, self.right)
        if found is None:
            return
        name, size, rate, speedup = found
        self.findings["best"] = {"contender": name, "batch": size, "images_per_second": rate, "speedup": speedup}
        contender, batch = half_eager(self.case), make_batch(self.case.scale, size, self.case.device, seed=7)
        assert contender.engine is not None
        rates = measure_rates(self.case.device)
        work = measure_work(lambda: contender.run(batch))
        self.findings["stages"] = {
            "contender": "static eager half",
            "batch": size,
            "milliseconds": stage_times(contender.engine.graph, lambda: contender.run(batch), self.case.device),
            "work": asdict(work),
            "rates": asdict(rates),
            "floor": asdict(floor(work, rates, "fp16", size / rate)),
            "best": name,
        }

    def overlap(self) -> None:
        """The fastest contender that can be queued, with its masks encoded meanwhile."""
        queued = [name for name in self.right if name in self.contenders and self.contenders[name].engine is not None]
        found = best(self.comparisons, queued)
        if found is None:
            raise Skip("no contender that can be queued was right and timed")
        name, size, rate, _ = found
        engine = self.contenders[name].engine
        assert engine is not None
        batch = make_batch(self.case.scale, size, self.case.device, seed=7)
        batches = 3 if self.options.dry_run else max(10, min(100, int(8 * rate / size)))
        pipeline = run_pipeline(engine, batch, (self.case.scale.height, self.case.scale.width), batches)
        self.findings["pipeline"] = {
            "contender": name,
            **asdict(pipeline),
            "inexact_images": engine.answered_again[INEXACT],
        }
        engine.forget()

    def compile(self) -> None:
        """torch.compile, at the fastest one's batch size, beside it and torchvision."""
        if self.left < COMPILE_SECONDS and not self.options.dry_run:
            raise Skip(f"{self.left:.0f} s are left; compiling is begun with {COMPILE_SECONDS} or more")
        self.check(COMPILED, half_compiled)
        fastest = self.findings.get("best", {"contender": REFERENCE, "batch": 1})
        self.time(fastest["batch"], list(dict.fromkeys((REFERENCE, fastest["contender"], COMPILED))))

    def serve(self) -> None:
        """The service, and its share of what its engine does in this process."""
        needed = SERVICE_SECONDS * 2 + EXPORT_SECONDS
        if self.left < needed and not self.options.dry_run:
            raise Skip(f"{self.left:.0f} s are left, and exporting and serving take about {needed}")
        served = serve(self.case, SERVICE_SECONDS)
        engine = ONNX if served.engine == "onnx" else "TorchScript fp32"
        share = served.images_per_second / alone[2] if (alone := best(self.comparisons, [engine])) else None
        self.findings["service"] = {**asdict(served), "share_of_engine": share}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the JSON; the exit status is 1 when nothing could be compared."""
    options = _parser().parse_args(arguments)
    options.end = time.monotonic() + options.minutes * 60
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: torch sees no CUDA device; `--device cpu --dry-run` runs the same steps, tiny, without"
        )
    if options.device == "cpu" and not options.dry_run:
        raise SystemExit("error: the full size is for a GPU; add --dry-run")
    scale = TINY if options.dry_run else FULL
    options.batches = options.batches or ([2, 1] if options.dry_run else [8, 1, 16, 4, 2])
    torch.backends.cudnn.benchmark = True
    with _without_tf32():
        case = make_case(scale, torch.device(options.device))
    run = Run(options, case)
    run.findings["case"] = {
        **asdict(scale),
        "threshold": THRESHOLD,
        "wanted_on_an_h200": WANTED,
        "spreads": SPREADS,
        "detections_per_image": case.detections_per_image,
    }
    chosen = {name: make for name, make in CONTENDERS.items() if not options.only or name in options.only}
    for name, make in {REFERENCE: CONTENDERS[REFERENCE], **chosen}.items():
        run.attempt(name, partial(run.check, name, make))
        _say(f"checked {name}: {run.findings['skipped'].get(name, 'ok')} ({run.spent[name]:.1f} s)")
    run.time_all()
    steps = {"stages": run.look_inside, "pipeline": run.overlap, COMPILED: run.compile, "service": run.serve}
    for name, step in steps.items():
        run.attempt(name, step)
        _say(f"{name}: {run.findings['skipped'].get(name, 'done')} ({run.left:.0f} s left)")
        run.save()
    found = best(run.comparisons, run.right)
    if found is not None:
        names = ("contender", "batch", "images_per_second", "speedup")
        run.findings["best"] = dict(zip(names, found, strict=True))
    run.findings["reached"] = reached(run.comparisons, run.findings)
    run.save()
    print(text(run.comparisons, run.findings))
    return 0 if found is not None else 1


@contextmanager
def _without_tf32() -> Any:
    saved = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = saved


def _peak_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for everything")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes in order; default: 8 1 16 4 2")
    parser.add_argument("--rounds", type=int, default=15, help="most timed rounds of each batch size")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), help="contenders, besides torchvision's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
