"""What the engine `cuda` promises, looked at where it runs: every question that a CPU can't answer, each by itself.

    python -m benchmarks.gpu.engine --json engine.json
    python -m benchmarks.gpu.engine --device cpu --dry-run --json engine.json      the same questions, tiny, anywhere

One that fails is written down with its reason, and the next is asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.case import FULL, TINY, Batch, Case, make_batch, make_case
from model.network.graph.half import halve
from model.network.serving.comparing import alike
from model.network.serving.engine import StaticEngine
from model.network.serving.place import Gpu, Host, Place
from model.runtime.detections import RawDetections

BATCH = 8
BATCHES = 30
"""Batches of a measured rate."""

Answer = dict[str, Any]


class Questions:
    """Each method asks one and returns what it found."""

    def __init__(self, case: Case, dry_run: bool) -> None:
        self.case, self.gpu = case, case.device.type == "cuda"
        self.dtype = torch.float16 if self.gpu else torch.bfloat16
        self.batch = 2 if dry_run else BATCH
        self.batches = 2 if dry_run else BATCHES

    def engine(self, batch_size: int | None = None) -> StaticEngine:
        return StaticEngine(halve(self.case.model, self.dtype), batch_size=batch_size)

    def images(self, count: int, seed: int) -> Batch:
        return make_batch(self.case.scale, count, self.case.device, seed=seed)

    def reserved(self) -> int:
        """Bytes of the GPU that torch has taken."""
        return torch.cuda.memory_reserved(self.case.device) if self.gpu else 0

    def replay_is_what_its_kernels_compute(self) -> Answer:
        """Three shapes in turn, whose captures share their memory."""
        engine = self.engine()
        batches = [self.images(count, seed) for seed, count in enumerate((self.batch, 1, 2))]
        worst = 0.0
        for number in (0, 1, 0, 2, 1, 0):
            arrays = _arrays(batches[number])
            worst = max(worst, _difference_of_all(engine.run(*arrays), engine.run_eagerly(*arrays)))
        return {"good": worst == 0, "largest_difference": worst}

    def an_image_is_answered_the_same_in_every_place_of_a_batch(self) -> Answer:
        engine, mine = self.engine(), self.images(1, 5)
        first: RawDetections | None = None
        worst, share = 0.0, 1.0
        for place in range(self.batch):
            neighbors = self.images(self.batch, 100 + place)
            neighbors.images[place] = mine.images[0]
            found = engine.run(*_arrays(neighbors)).of_image(place)
            first = found if first is None else first
            worst, share = max(worst, _difference(first, found)), min(share, alike(first, found))
        return {"good": worst <= 1e-3, "largest_difference": worst, "least_share_alike": share}

    def a_batch_of_one_is_answered_as_a_full_one_is(self) -> Answer:
        """What filling batches up is for."""
        engine, many = self.engine(), self.images(self.batch, 6)
        together = engine.run(*_arrays(many)).of_image(0)
        alone = engine.run(*(part[:1] for part in _arrays(many)))
        return {"good": True, "difference": _difference(together, alone), "share_alike": alike(together, alone)}

    def twenty_replays_are_equal(self) -> Answer:
        engine, arrays = self.engine(), _arrays(self.images(self.batch, 7))
        first = engine.run(*arrays)
        worst = max(_difference_of_all(first, engine.run(*arrays)) for _ in range(20 if self.gpu else 2))
        return {"good": worst == 0, "largest_difference": worst}

    def four_threads_are_answered_while_a_fifth_captures(self) -> Answer:
        engine = self.engine()
        batches = [_arrays(self.images(1, 20 + seed)) for seed in range(4)]
        expected = [engine.run(*arrays) for arrays in batches]
        wrong: list[float] = []

        def ask(number: int) -> None:
            for _ in range(self.batches):
                if (difference := _difference_of_all(expected[number], engine.run(*batches[number]))) > 0:
                    wrong.append(difference)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for count in range(2, 2 + self.batch // 2):
            engine.run(*_arrays(self.images(count, 30)))  # of a new shape
        for thread in threads:
            thread.join()
        return {"good": not wrong, "wrong_answers": len(wrong)}

    def giving_a_batch_waits_for_nothing(self) -> Answer:
        engine, batch = self.engine(), self.images(self.batch, 8)
        engine.submit_tensors(batch.images, batch.sizes, batch.thresholds).result()
        mode = torch.cuda.get_sync_debug_mode() if self.gpu else 0
        if self.gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            pending = engine.submit_tensors(batch.images, batch.sizes, batch.thresholds)
        finally:
            if self.gpu:
                torch.cuda.set_sync_debug_mode(mode)
        pending.result()
        return {"good": True}

    def an_overflow_is_noticed(self) -> Answer:
        graph = halve(self.case.model, torch.float16)
        with torch.no_grad():
            graph.backbone.body.layer3[0].conv1.weight.mul_(3e4)
        engine, batch = StaticEngine(graph), self.images(2, 9)
        engine.run(*_arrays(batch))
        return {"good": engine.answered_again["overflow"] == 2, **engine.answered_again}

    def capturing(self) -> Answer:
        """Seconds and bytes of each capture; the next ones share the first one's memory."""
        engine, captures = self.engine(), []
        for count in (self.batch, 4, 2, 1):
            before = self.reserved()
            start = time.perf_counter()
            engine.run(*_arrays(self.images(count, 10)))
            seconds = time.perf_counter() - start
            captures.append({"batch": count, "seconds": seconds, "bytes": self.reserved() - before})
        return {"good": True, "captures": captures}

    def captures_stay_within_their_memory(self) -> Answer:
        """Whatever comes first: the pool that they share grows most where each is larger than the last."""
        device, graph = self.case.device, halve(self.case.model, self.dtype)
        place: Place = Gpu(device.index or 0, str(device)) if self.gpu else Host()

        def held(most: int, batches: Iterable[int]) -> tuple[int, int]:
            """Bytes, and captures, after batches of these sizes."""
            place.capture_bytes = most
            engine = StaticEngine(graph, place)
            place.tidy()
            before = self.reserved()
            for count in batches:
                engine.run(*_arrays(self.images(count, 12)))
            place.tidy()
            found = self.reserved() - before, engine.captured
            engine.close()
            return found

        alone, _ = held(1 << 60, [self.batch])
        most = int(1.1 * alone)
        together, captures = held(most, range(1, self.batch + 1))
        good = together <= most or captures <= 1
        return {"good": good, "most_bytes": most, "bytes": together, "captures": captures, "bytes_of_one": alone}

    def rates(self) -> Answer:
        """Images a second with one batch at a time and with the next one given ahead, from pinned memory and copied."""
        engine, batch = self.engine(), self.images(self.batch, 11)
        arrays = _arrays(batch)
        ways: dict[str, Callable[[], Any]] = {
            "pinned": lambda: engine.submit_tensors(batch.images, batch.sizes, batch.thresholds),
            "copied": lambda: engine.submit([*arrays[0]], *arrays[1:]),
        }
        found = {}
        for name, give in ways.items():
            for depth in (1, 2, 3):
                give().result()
                pending: deque[Any] = deque()
                start = time.perf_counter()
                for _ in range(self.batches):
                    pending.append(give())
                    if len(pending) == depth:
                        pending.popleft().result()
                while pending:
                    pending.popleft().result()
                found[f"{name}, depth {depth}"] = self.batches * self.batch / (time.perf_counter() - start)
        return {"good": True, "images_per_second": found}


QUESTIONS: tuple[Callable[[Questions], Answer], ...] = (
    Questions.replay_is_what_its_kernels_compute,
    Questions.an_image_is_answered_the_same_in_every_place_of_a_batch,
    Questions.a_batch_of_one_is_answered_as_a_full_one_is,
    Questions.twenty_replays_are_equal,
    Questions.four_threads_are_answered_while_a_fifth_captures,
    Questions.giving_a_batch_waits_for_nothing,
    Questions.an_overflow_is_noticed,
    Questions.capturing,
    Questions.captures_stay_within_their_memory,
    Questions.rates,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a question and writes the JSON; the exit status is 1 when an answer was not good."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.engine")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the answers are written")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = False
    questions = Questions(make_case(TINY if options.dry_run else FULL, torch.device(options.device)), options.dry_run)
    found: dict[str, Answer] = {}
    for ask in QUESTIONS:
        name = ask.__name__.replace("_", " ")
        try:
            found[name] = ask(questions)
        except Exception as error:  # whatever it is, it is this question's answer, and not the run's end
            found[name] = {"good": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return 0 if all(answer["good"] for answer in found.values()) else 1


def _arrays(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.images.numpy(), batch.sizes.numpy(), batch.thresholds.numpy()


def _difference(one: RawDetections, other: RawDetections) -> float:
    """The largest of scores; infinite where there are more or fewer detections."""
    if len(one.scores) != len(other.scores):
        return float("inf")
    return float(np.abs(one.scores - other.scores).max(initial=0))


def _difference_of_all(one: RawDetections, other: RawDetections) -> float:
    """The largest of scores, boxes, labels and masks; infinite where there are more or fewer detections."""
    if len(one.scores) != len(other.scores):
        return float("inf")
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("boxes", "labels", "masks")]
    return max(_difference(one, other), *(float(np.abs(mine - yours).max(initial=0)) for mine, yours in pairs))


if __name__ == "__main__":
    sys.exit(main())
