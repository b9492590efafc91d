"""One engine in one precision, in a process of its own: `Running` starts it, `python -m benchmarks.contender` is it.

The process imports what serving does and no more, and takes memory as serving does, so that its start and its peak
memory are those of the engine in a server.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.runtime.bundles.bundle import open_bundle
from model.runtime.detections import Detections
from model.runtime.engines.engine import EngineKind, FloatPrecision
from model.runtime.engines.loading import load_engine
from model.runtime.images.decode import load_image
from model.runtime.predict import Predictor, warm_up
from service.observability.memory import keep_freed_memory

SCORE_THRESHOLD = 0.05


@dataclass(frozen=True)
class Contender:
    """An engine, the precision that it is told, and the bundle's file that it runs (None: its own)."""

    name: str
    kind: EngineKind
    precision: FloatPrecision = "f32"
    file: str | None = None


class Running:
    """A contender's process, started and warm; compiled networks are kept in `cache`, which may be empty.

    Raises RuntimeError, at the start or later, where it ends by itself.
    """

    def __init__(self, contender: Contender, model: Path, max_detections: int, threads: int, cache: Path) -> None:
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        )
        self._name = contender.name
        self.pid = self._process.pid
        self._ask((contender, model, max_detections, threads))
        self.start_seconds = time.perf_counter() - begin
        """From the process's start to the end of the warm-up."""

    def detect(self, paths: Sequence[Path]) -> list[Detections]:
        """Each file's detections, from reading it to COCO's strings, an image after the other."""
        answer: list[Detections] = self._ask(list(paths))
        return answer

    def end(self) -> int:
        """Stop it. Returns its peak memory in bytes."""
        peak: int = self._ask(None)
        self._process.communicate()
        return peak

    def _ask(self, words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(words, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            self._process.communicate()
            code = self._process.returncode
            raise RuntimeError(f"{self._name} has ended with {code}; stderr has the reason") from None


def main() -> None:
    """Answers what `Running` asks, pickles on stdin and stdout."""
    keep_freed_memory()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    contender, model, max_detections, threads = pickle.load(sys.stdin.buffer)
    bundle = open_bundle(model)
    preprocessing = bundle.manifest.preprocessing
    engine = load_engine(bundle, contender.kind, "cpu", threads, contender.precision, contender.file)
    warm_up(engine, preprocessing)
    predictor = Predictor(engine, preprocessing)

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    answer(None)
    while (paths := pickle.load(sys.stdin.buffer)) is not None:
        images = (load_image(path, upright=False, intensity=preprocessing.intensity) for path in paths)
        answer([predictor.predict([image], SCORE_THRESHOLD, max_detections)[0] for image in images])
    lines = Path("/proc/self/status").read_text().splitlines()
    answer(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))


if __name__ == "__main__":
    main()
