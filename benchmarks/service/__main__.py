"""The service beside what users would pick: FastAPI + torchvision, LitServe, BentoML, TorchServe, Triton.

    python -m benchmarks.peers.setup                            once: the peers' environments
    python -m benchmarks.service --json service.json            everything: hours
    python -m benchmarks.service --peers fastapi,litserve --only load,null
    python -m benchmarks.service --quick                        a dry run beside FastAPI; its figures mean nothing

Same weights, images and client for all; servers, client and decoding share the machine's cores. In turns: ours, the
peer, ours, ... What is measured:

    load     at 1 and 8 connections: throughput, latency, memory, whether answers change under load. Tuned: the peer set
             up as well as we can, everybody at scores above 0.05. Documented: the peer as its documentation leaves it,
             ours at 0.5
    null     a model that costs nothing: what remains is the server
    engine   our throughput as a share of the engine's alone
    memory   resident memory over many requests
    start    process start to the first answer
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.measure import Comparison, write_json
from benchmarks.peers.prepare import NotTorchvisionsError, prepare
from benchmarks.peers.processes import orphans_adopted
from benchmarks.peers.servers import PEERS, Server, interpreter, ours
from benchmarks.peers.setup import default_folder
from benchmarks.service.null import null_photograph, publish_null
from benchmarks.service.report import describe, targets
from benchmarks.service.turns import (
    OURS,
    Running,
    Sample,
    ServerFailedError,
    Start,
    beside_engine,
    growth,
    side_by_side,
    starts,
)
from model.runtime.bundles.bundle import Bundle, BundleError, open_bundle
from model.runtime.bundles.manifest import PrecisionChoice

ROOT = Path(__file__).resolve().parents[2]
CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
CONNECTIONS = (1, 8)
KINDS = ("load", "null", "engine", "memory", "start")
PACKAGES = ("onnxruntime-gpu", "fastapi", "uvicorn", "torch", "torchvision", "pycocotools")
SAME_THRESHOLD = 0.05
DOCUMENTED_THRESHOLD = 0.5


class Benchmark:
    """One run: the settings, the folder that it works in, and what has been found so far."""

    def __init__(self, options: argparse.Namespace, bundle: Bundle, folder: Path) -> None:
        """Write the weights for the peers, and publish the null model. Raises NotTorchvisionsError."""
        self.options, self.bundle = options, bundle
        self.samples = read_samples(options.images)
        self.photograph = [Sample("photograph", null_photograph(), "image/jpeg")]
        self.weights = folder / "weights"
        prepare(bundle, self.weights)
        # A repository with this version alone.
        self.repository, self.null_repository = folder / "models", folder / "null-models"
        self.name = bundle.manifest.name
        (self.repository / self.name).mkdir(parents=True)
        (self.repository / self.name / str(bundle.manifest.version)).symlink_to(bundle.path.resolve())
        publish_null(folder / "null", self.null_repository)
        self.comparisons: list[Comparison] = []
        self.skipped: dict[str, str] = {}
        self.peers = [PEERS[name] for name in options.peers if self._is_there(PEERS[name])]

    def _is_there(self, peer: Server) -> bool:
        try:
            interpreter(peer, self.options.environments)
        except FileNotFoundError as error:
            self._skip(peer.name, str(error))
            return False
        return True

    def _skip(self, what: str, reason: str) -> None:
        self.skipped[what] = reason
        print(f"SKIPPED {what}: {reason}", file=sys.stderr, flush=True)

    def _add(self, comparison: Comparison) -> None:
        """Everything found so far is written at once: a run takes hours."""
        self.comparisons.append(comparison)
        print(describe(comparison), flush=True)
        if self.options.json is not None:
            write_json(self.options.json, *self.comparisons, packages=PACKAGES)

    def _ours(self, threshold: float) -> Start:
        server = ours(self.repository, self.name, threshold, precision=self.options.precision)
        return Start(server, Path(sys.executable), None, self.samples)

    def _ours_null(self, samples: Sequence[Sample]) -> Start:
        server = ours(self.null_repository, "null", SAME_THRESHOLD, self.options.processes)
        return Start(server, Path(sys.executable), None, samples)

    def _peer(self, peer: Server, documented: bool, *, null: bool = False) -> Start:
        model, samples = (None, self.photograph) if null else (self.weights, self.samples)
        return Start(peer, interpreter(peer, self.options.environments), model, samples, documented)

    def _compare(self, own: Start, peer: Start, counts: Mapping[int, int], details: Mapping[str, Any]) -> None:
        """Both servers in turns, with the requests a turn for each number of connections.

        A peer that fails is skipped: others may still be measured.
        """
        try:
            with Running(own) as one, Running(peer) as other:
                for connections, count in counts.items():
                    rounds = self.options.rounds
                    self._add(
                        side_by_side(one, other, count=count, connections=connections, rounds=rounds, details=details)
                    )
        except ServerFailedError as error:
            self._skip(f"{peer.server.name}, {details['kind']}", str(error))

    def kinds(self) -> dict[str, Callable[[], None]]:
        """The measurements by the names that `--only` takes."""
        measures = (self.load, self.null, self.engine, self.memory, self.start)
        return dict(zip(KINDS, measures, strict=True))

    def load(self) -> None:
        """Every peer, tuned and as documented, at 1 and 8 connections."""
        most = max(CONNECTIONS)
        counts = {each: max(len(self.samples), self.options.requests * each // most) for each in CONNECTIONS}
        for peer in self.peers:
            for kind in self.options.variants:
                documented = kind == "documented"
                threshold = DOCUMENTED_THRESHOLD if documented else SAME_THRESHOLD
                details = {"kind": kind, "threshold": threshold, "images": len(self.samples)}
                details["precision"] = self.options.precision
                self._compare(self._ours(threshold), self._peer(peer, documented), counts, details)

    def null(self) -> None:
        """Every peer with the null model, tuned."""
        counts = {each: self.options.null_requests * min(each, 2) for each in CONNECTIONS}
        for peer in self.peers:
            own = self._ours_null(self.photograph)
            details = {"kind": "null", "processes": self.options.processes}
            self._compare(own, self._peer(peer, False, null=True), counts, details)

    def engine(self) -> None:
        """Ours beside its engine."""
        count, rounds = self.options.requests, self.options.rounds
        with Running(self._ours(SAME_THRESHOLD)) as one:
            self._add(
                beside_engine(
                    one,
                    self.bundle,
                    self.samples,
                    SAME_THRESHOLD,
                    count=count,
                    rounds=rounds,
                    precision=self.options.precision,
                )
            )

    def memory(self) -> None:
        """Ours over many requests: the null model on all images, or the real one."""
        model = self.options.growth_model
        start = self._ours_null([*self.samples, *self.photograph]) if model == "null" else self._ours(SAME_THRESHOLD)
        with Running(start) as one:
            found = growth(one, total=self.options.growth_requests, chunk=max(10, self.options.growth_requests // 50))
        found.details["model"] = model
        self._add(found)

    def start(self) -> None:
        """Ours and every peer, tuned, with the real model."""
        contenders = {OURS: self._ours(SAME_THRESHOLD)}
        contenders |= {peer.name: self._peer(peer, False) for peer in self.peers}
        self._add(starts(contenders, rounds=self.options.starts))


def read_samples(folder: Path) -> list[Sample]:
    """The PNG and JPEG files of a folder, by name. SystemExit when there are none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in CONTENT_TYPES) if folder.is_dir() else []
    if not files:
        raise SystemExit(f"error: {folder} has no PNG or JPEG files; give a folder of images with --images")
    return [Sample(file.name, file.read_bytes(), CONTENT_TYPES[file.suffix.lower()]) for file in files]


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; known are {', '.join(known)}")
        return chosen

    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    embedded = ROOT / "model" / "embedded" / "nuclei" / "1"
    add("--model", type=Path, default=embedded, metavar="BUNDLE", help="a folder NAME/VERSION")
    add("--images", type=Path, default=ROOT / "model" / "samples" / "nuclei", metavar="DIR", help="what is asked about")
    add("--peers", type=_names(list(PEERS)), default=list(PEERS), metavar="NAMES", help="peers, by commas")
    add("--only", type=_names(KINDS), default=list(KINDS), metavar="KINDS", help="measurements, by commas")
    add(
        "--variants", type=_names(("tuned", "documented")), default=["tuned", "documented"], help="how peers are set up"
    )
    add("--environments", type=Path, default=default_folder(), metavar="DIR", help="of benchmarks.peers.setup")
    add(
        "--requests", type=int, default=32, help="requests a turn at 8 connections; an eighth, or each image once, at 1"
    )
    add("--null-requests", type=int, default=500, help="the same for the null model at 1; twice as many at 8")
    add("--precision", choices=get_args(PrecisionChoice), default="f32", help="of ours, with the real model")
    add("--processes", type=int, default=1, help="of ours, with the null model")
    add("--rounds", type=int, default=5, help="turns of each server")
    add("--growth-requests", type=int, default=10_000, help="requests over which memory is watched")
    add("--growth-model", choices=("null", "real"), default="null", help="what answers them")
    add("--starts", type=int, default=3, help="starts of each server")
    add("--json", type=Path, default=None, metavar="FILE", help="write the figures here, as they come")
    add("--quick", action="store_true", help="a dry run: FastAPI alone, as few requests as there can be")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; the exit status is 1 when a comparison is not valid."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.peers, options.variants = ["fastapi"], ["tuned"]
        options.requests = options.null_requests = 8
        options.rounds = options.starts = 1
        options.growth_requests = 50
    with tempfile.TemporaryDirectory(prefix="maskserve-benchmark-") as folder, orphans_adopted():
        try:
            benchmark = Benchmark(options, open_bundle(options.model), Path(folder))
        except (BundleError, NotTorchvisionsError) as error:
            raise SystemExit(f"error: {error}") from error
        for kind, measure in benchmark.kinds().items():
            if kind in options.only:
                measure()
    print("\nTargets")
    for target in targets(benchmark.comparisons, options.precision):
        print(target)
    return 0 if all(comparison.valid for comparison in benchmark.comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
