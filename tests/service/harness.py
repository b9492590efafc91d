"""What the tests of the service share: the probe as a bundle, pictures for it, and a real server process."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, ManifestDraft, Provenance, ServingDefaults
from model.runtime.preprocess import Preprocessing
from service.settings.environment import PREFIX
from tests.measured import measured
from tests.patience import PATIENCE
from tests.service.forking import Forked, fork
from tests.service.holding import FOLDER, HOLD, MARK
from tests.service.probe import HUNGRY_MARK, SIDE, build_probe

ROOT = Path(__file__).resolve().parents[2]

LABELS = ("circle", "ring, broken", "square")
INT8_SHARE = 0.9


def publish_probe(
    staging: Path,
    repository: Path,
    name: str = "probe",
    labels: tuple[str, str, str] = LABELS,
    score_thresholds: Mapping[str, float] = MappingProxyType({}),
    int8_ap: float | None = None,
    by_openvino: float | None = None,
    channels: int = 3,
    reduced_decoding: bool = False,
) -> Bundle:
    """The probe as a bundle: images of 64 pixels' shorter side, at most 128; threshold 0.3 but for those given.

    With int8_ap, beside one whose mask AP is 0.5, there is one in the place of INT8 that scores INT8_SHARE as much;
    by_openvino is what is said to be its AP by that engine.
    """
    staging.mkdir(exist_ok=True)
    build_probe(staging / "model.onnx", channels=channels)
    precisions = {}
    if int8_ap is not None:
        build_probe(staging / INT8_FILE, INT8_SHARE)
        precisions = measured({} if by_openvino is None else {"int8": by_openvino}, f32=0.5, int8=int8_ap)
    draft = ManifestDraft(
        architecture=ArchitectureConfig.model_validate(
            {"num_classes": len(LABELS) + 1, "min_size": SIDE, "max_size": 2 * SIDE, "channels": channels}
        ),
        class_names=labels,
        preprocessing=Preprocessing(
            min_size=SIDE, max_size=2 * SIDE, channels=channels, reduced_decoding=reduced_decoding
        ),
        provenance=Provenance(dataset="none: a graph made by hand", license="Apache-2.0"),
        defaults=ServingDefaults(score_threshold=0.3, score_thresholds=score_thresholds),
        precisions=precisions,
    )
    return publish_bundle(staging, draft, repository, name)


def picture(
    seed: int = 0,
    size: tuple[int, int] = (SIDE, SIDE),
    *,
    slow: int = 0,
    fail: bool = False,
    hungry: int = 0,
    held: bool = False,
) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] noise as bright as `seed` makes it, black along the edges; the others steer the probe."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, generator.integers(60, 250), (*size, 3), np.uint8)
    edge = max(2, min(size) // 16)
    for border in (image[:edge], image[-edge:], image[:, :edge], image[:, -edge:]):
        border[...] = 0
    image[0, 0, 0] = slow
    if fail:
        image[0, 1, 1] = 255
    if hungry:
        image[0, 2, 0], image[0, 2, 2] = HUNGRY_MARK, hungry
    if held:
        image[0, 3, 0] = MARK
    return image


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for something that must become true."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, "never happened"
        time.sleep(min(0.05, max(0.005, waited / 10)))  # to ask is work, also for the server that is asked


def encode(image: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


HELD = encode(picture(held=True))
"""Stays on the engine inside `Server.busy`."""


@dataclass
class Server:
    """A `python -m service` process and a client for it."""

    process: subprocess.Popen[str] | Forked
    url: str
    holding: Path
    """See tests/service/holding.py."""
    errors: list[str] = field(default_factory=list)
    """Its lines on stderr so far."""
    log: list[str] = field(default_factory=list)
    """Its lines on stdout so far, JSON each."""

    def __post_init__(self) -> None:
        self.client = self.another_client()

    @classmethod
    def start(
        cls,
        repository: Path,
        *flags: str,
        forked: bool = True,
        module: str = "tests.service.holding",
        **environment: str,
    ) -> Server:
        """Start one on a free port and wait for its ready line. Not forked, it does its imports itself. `module` is
        what is run, which installs what `tests.service.holding` does.
        """
        holding = Path(tempfile.mkdtemp())
        environment[FOLDER] = str(holding)
        environment.setdefault(f"{PREFIX}ENGINE_STALL_MS", "0")  # what a test holds does not hang
        words = ["--port", "0", "--models", str(repository), *flags]
        process = (start if forked else start_afresh)(module, words, environment)
        assert process.stderr is not None
        assert process.stdout is not None
        errors: list[str] = []
        log: list[str] = []
        lines: queue.Queue[str] = queue.Queue()

        def read(stream: IO[str], *sinks: Callable[[str], None]) -> None:
            for line in stream:
                for sink in sinks:
                    sink(line)

        threading.Thread(target=read, args=(process.stderr, errors.append, lines.put), daemon=True).start()
        threading.Thread(target=read, args=(process.stdout, log.append), daemon=True).start()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = lines.get(timeout=0.1)
            except queue.Empty:
                assert process.poll() is None, f"the server ended with {process.returncode}: {''.join(errors)}"
                assert time.monotonic() < deadline, f"no ready line: {''.join(errors)}"
            else:
                if ready := re.match(r"maskserve: .* ready at (http://\S+) \(", line):
                    return cls(process, ready[1], holding, errors, log)

    def another_client(self, **options: Any) -> httpx.Client:
        """With connections of its own. To read the certificates of authorities would take longer than most answers."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, verify=False, **options)

    def get_afresh(self, path: str) -> httpx.Response:
        """By a connection of its own."""
        with self.another_client() as client:
            return client.get(path)

    def predict(self, data: bytes, content_type: str = "image/png", **parameters: Any) -> httpx.Response:
        return self.client.post("/predict", content=data, headers={"Content-Type": content_type}, params=parameters)

    @contextmanager
    def busy(self, images: int = 1, **parameters: Any) -> Iterator[list[Future[httpx.Response]]]:
        """Inside the block as many images are on the engine, each in a batch of its own, and stay there.

        Gives what will be their answers, which are there after the block.
        """
        (self.holding / HOLD).touch()
        with ThreadPoolExecutor(images) as pool:
            try:
                blockers = []
                for number in range(1, images + 1):
                    blockers.append(pool.submit(self.predict, HELD, **parameters))
                    until(lambda number=number: len(os.listdir(self.holding)) == 1 + number)
                yield blockers
            finally:
                (self.holding / HOLD).unlink()

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, such as `maskserve_requests_total{route="/predict",status="200"}`."""
        lines = self.client.get("/metrics").text.split("\n")
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def connect(self) -> socket.socket:
        """A bare connection, for clients that httpx does not play."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self.holding)


def head(*headers: str) -> bytes:
    """The head of a request to predict a PNG, to be sent through `Server.connect`."""
    lines = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: image/png", *headers, "", "")
    return "\r\n".join(lines).encode()


def launch(*flags: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m service` on a free port, stdout and stderr captured: the whole of a start, imports too."""
    return start_afresh("service", ["--port", "0", *flags], environment)


def ended(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m service` that ends by itself: one that serves is killed, and that is an error."""
    process = start("service", flags, environment)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(flags, process.returncode, output, errors)


def start(module: str, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str] | Forked:
    """`python -m module`, without its imports where they make no difference."""
    return fork(module, words, surroundings(environment)) or start_afresh(module, words, environment)


def start_afresh(module: str, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=surroundings(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: these variables, and no setting of whoever runs the tests."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}, **environment}
