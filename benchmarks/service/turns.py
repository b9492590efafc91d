"""Servers that take turns: each measurement of `benchmarks.service` is a function here and gives a Comparison.

A server whose turn it isn't is stopped with all its processes: some of them poll when they have nothing to do.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.measure import Comparison, alternate, own_seconds
from benchmarks.peers import wire
from benchmarks.peers.network import Answer
from benchmarks.peers.processes import Tree, free_port
from benchmarks.peers.servers import Server
from benchmarks.peers.settings import PeerSettings
from benchmarks.service.answers import compare
from benchmarks.service.client import Load, first_answer, load
from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.engines.choosing import choose_engine
from model.runtime.engines.precision import choose_precision, load_in
from model.runtime.images.decode import decode_image
from model.runtime.predict import Predictor
from model.runtime.preprocess import prepare, stack

OURS = "maskserve"


class ServerFailedError(Exception):
    """A server ended or never answered; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image file that is asked about."""

    name: str
    data: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Start:
    """How one server is started. `model` is what a peer loads; None is the null model."""

    server: Server
    python: Path
    model: Path | None
    samples: Sequence[Sample]
    documented: bool = False


class Running:
    """A server that has answered once and is stopped until its next turn."""

    def __init__(self, start: Start) -> None:
        """Start it and wait for its first answer. Raises ServerFailedError."""
        self.server, self._documented = start.server, start.documented
        self.name = start.server.name
        self.requests = [start.server.request(one.data, one.content_type, start.documented) for one in start.samples]
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        settings = PeerSettings(free_port(), start.model, start.documented)
        self._port = settings.port
        self._alone: list[Answer] | None = None
        command = start.server.command(start.python, settings, self._folder)
        environment = {**settings.environment(), **start.server.environment(start.python, self._folder)}
        self.tree = Tree(command, environment, self._folder)
        try:
            first_answer(self._port, self.requests[0], self._check)
            self.start_seconds = time.perf_counter() - self.tree.started
        except BaseException as error:
            words = self.tree.last_words()
            self.close(patience=0)
            if isinstance(error, (RuntimeError, TimeoutError)):
                raise ServerFailedError(f"{error}; the end of its log:\n{words}") from error
            raise
        self.tree.pause()

    def _check(self) -> None:
        if (status := self.tree.process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with status {status}")

    def turn(self, count: int, connections: int, *, keep: bool = False) -> Load:
        """So many requests. Raises ServerFailedError when nobody takes connections any more."""
        self.tree.resume()
        try:
            return load(self._port, self.requests, count, connections, keep=keep)
        except OSError as error:
            raise ServerFailedError(f"{self.name}: {error}; the end of its log:\n{self.tree.last_words()}") from error
        finally:
            self.tree.pause()

    def processor_seconds(self) -> float:
        """What its processes have used so far; counted in hundredths."""
        pids = self.tree.pids()
        return sum(seconds for pid, seconds in own_seconds(pids).items() if pid in pids)

    def alone(self) -> list[Answer]:
        """Its answer to each image while it has nothing else to do. Raises ServerFailedError."""
        if self._alone is None:
            found = self.turn(len(self.requests), 1, keep=True)
            if found.failed:
                raise ServerFailedError(f"{self.name} answered single requests with {found.failed}")
            self._alone = [self.answer(exchange.body) for exchange in found.exchanges]
        return self._alone

    def answer(self, body: bytes) -> Answer:
        """What is compared of one of its answers."""
        return wire.columns(self.server.answer(body, self._documented))

    def close(self, patience: float = 15) -> None:
        """End it and remove what it wrote."""
        self.tree.resume()
        self.tree.end(patience)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def side_by_side(
    ours: Running, peer: Running, *, count: int, connections: int, rounds: int, details: Mapping[str, Any]
) -> Comparison:
    """Turns of `count` requests over so many connections; the peer is the reference.

    With several connections answers are compared with those of the same server to the same image alone.
    """
    loads: dict[str, list[Load]] = {ours.name: [], peer.name: []}
    processor: dict[str, list[float]] = {ours.name: [], peer.name: []}
    keep = connections > 1

    def turn(running: Running) -> None:
        before = running.processor_seconds()
        loads[running.name].append(running.turn(count, connections, keep=keep))
        processor[running.name].append(running.processor_seconds() - before)

    both = (ours, peer)
    for running in both:
        if keep:
            running.alone()
    comparison = alternate(
        {running.name: partial(turn, running) for running in both},
        reference=peer.name,
        rounds=rounds,
        pids=[*ours.tree.pids(), *peer.tree.pids()],
        details={**details, "peer": peer.name, "connections": connections, "requests_a_turn": count},
    )
    comparison.details["servers"] = {
        running.name: {
            **_figures(running, loads[running.name][1:], keep),
            "processor_ms_per_request": median(processor[running.name][1:]) / count * 1e3,
        }
        for running in both
    }
    return comparison


def _figures(running: Running, loads: Sequence[Load], keep: bool) -> dict[str, Any]:
    exchanges = [exchange for one in loads for exchange in one.exchanges]
    answered = [exchange for exchange in exchanges if exchange.status == 200]
    p50, p99 = np.percentile([exchange.seconds for exchange in answered], [50, 99]) * 1e3 if answered else (0.0, 0.0)
    return {
        "requests_per_second": median((len(one.exchanges) - len(one.failed)) / one.seconds for one in loads),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "answered": len(answered),
        "failed": sorted(exchange.status for exchange in exchanges if exchange.status != 200),
        "resident_bytes": running.tree.resident(),
        "peak_bytes": running.tree.peak(),
        "start_seconds": running.start_seconds,
        "agreement": asdict(
            compare(running.alone(), ((exchange.image, running.answer(exchange.body)) for exchange in answered))
        )
        if keep
        else None,
    }


def beside_engine(
    ours: Running,
    bundle: Bundle,
    samples: Sequence[Sample],
    threshold: float,
    *,
    count: int,
    rounds: int,
    precision: PrecisionChoice = "f32",
) -> Comparison:
    """Our server at 8 connections beside its engine alone, the reference: no decoding, no masks, no HTTP."""
    kind = choose_engine(precision, bundle).kind
    engine_alone = load_in(choose_precision(precision, bundle, kind), bundle, kind, "cpu")
    predictor = Predictor(engine_alone, bundle.manifest.preprocessing)
    inputs = [stack([prepare(decode_image(one.data), predictor.preprocessing)]) for one in samples]
    thresholds = np.full(1, threshold, np.float32)

    def engine() -> None:
        for number in range(count):
            predictor.engine.run(*inputs[number % len(inputs)], thresholds)

    try:
        return alternate(
            {"engine": engine, OURS: lambda: ours.turn(count, 8)},
            reference="engine",
            rounds=rounds,
            pids=ours.tree.pids(),
            details={"kind": "engine", "threshold": threshold, "requests_a_turn": count, "precision": precision},
        )
    finally:
        predictor.close()


def growth(ours: Running, *, total: int, chunk: int) -> Comparison:
    """Resident memory after each `chunk` of `total` requests over 8 connections.

    The slope is of the straight line through all but the first fifth, while which caches fill, with twice its standard
    error.
    """
    resident: list[int] = []

    def turn() -> None:
        ours.turn(chunk, 8)
        resident.append(ours.tree.resident())

    rounds = max(5, total // chunk)
    comparison = alternate({OURS: turn}, reference=OURS, rounds=rounds, pids=ours.tree.pids())
    settled = np.array(resident[1 + rounds // 5 :], float)
    requests = chunk * np.arange(len(settled))
    deviation = requests - requests.mean()
    slope = float(deviation @ settled / (deviation @ deviation))
    residuals = settled - settled.mean() - slope * deviation
    error = float(np.sqrt((residuals @ residuals) / max(1, len(settled) - 2) / (deviation @ deviation)))
    comparison.details.update(
        kind="growth",
        requests=rounds * chunk,
        resident_bytes=resident,
        slope_bytes_per_request=slope,
        two_standard_errors=2 * error,
    )
    return comparison


def starts(contenders: Mapping[str, Start], *, rounds: int) -> Comparison:
    """From the start of the process to the first answer, of each in turn; the timings have the killing in them, too.

    The seconds without it are in the details.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def start(name: str) -> None:
        running = Running(contenders[name])
        seconds[name].append(running.start_seconds)
        running.close(patience=0)

    return alternate(
        {name: partial(start, name) for name in contenders},
        reference=OURS,
        rounds=rounds,
        warmup=0,
        details={"kind": "start", "seconds_to_first_answer": seconds},
    )
