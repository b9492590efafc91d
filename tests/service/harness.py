"""What the tests of the service share: a small model whose answers are known, and a real server process."""

from __future__ import annotations

import functools
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
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, ManifestDraft, Provenance, ServingDefaults
from model.runtime.preprocess import Preprocessing
from service.settings.environment import PREFIX
from tests.measured import measured
from tests.patience import PATIENCE
from tests.service.forking import Forked, fork
from tests.service.holding import FOLDER, HOLD, MARK

ROOT = Path(__file__).resolve().parents[2]

LABELS = ("circle", "ring, broken", "square")
HUNGRY_MARK = 7
"""Without it the noise that warms a model up would be hungry, as it would be slow if green did not matter."""
INT8_SHARE = 0.9
SIDE = 64
"""Side in pixels of an image that the probe takes without resampling."""

# The probe's six candidates: score in a white image, label id, box in shares of the image's width and height.
CANDIDATES: tuple[tuple[float, int, tuple[float, float, float, float]], ...] = (
    (0.95, 1, (0.1, 0.1, 0.5, 0.5)),
    (0.85, 2, (0.4, 0.4, 0.9, 0.8)),
    (0.75, 3, (0.0, 0.0, 1.0, 1.0)),
    (0.60, 1, (0.6, 0.05, 0.95, 0.3)),
    (0.40, 2, (0.05, 0.6, 0.3, 0.95)),
    (0.20, 1, (0.3, 0.3, 0.45, 0.6)),
)


def candidate_masks() -> NDArray[np.float32]:
    """float32 [6, 28, 28]: smooth discs and rings, the rings with a hole."""
    y, x = np.mgrid[:28, :28]
    radius = np.hypot(y - 13.5, x - 13.5)
    rings = [np.clip((12 - k - np.abs(radius - 2 * k / 3)) / 4 + 0.5, 0, 1) for k in range(len(CANDIDATES))]
    rings[1] = np.clip(4 - np.abs(radius - 9), 0, 1)
    return np.stack(rings).astype(np.float32)


def build_probe(path: Path, share: float = 1.0, channels: int = 3) -> None:
    """Write a small ONNX graph with a network's inputs and outputs that can be steered through the image.

    An image's scores are the candidates' times `share` times (0.5 + 0.5 x its mean brightness). Three pixels of the top
    row steer it: pixel 0's red value r, where that has no green, makes the run r * r * 16 steps of a loop longer, pixel
    1's green value above 250 makes it fail, and the sum s of the batch's blue values of pixel 2, where that is red 7,
    makes it take 2 ** s bytes of memory. Of one channel, that is all three colors.
    """
    path.write_bytes(_probe(share, channels))


@functools.cache
def _probe(share: float, channels: int) -> bytes:
    green, blue = (min(color, channels - 1) for color in (1, 2))
    constants = {
        "base": np.array([share * c[0] for c in CANDIDATES], np.float32),
        "label": np.array([c[1] for c in CANDIDATES], np.int64),
        "box": np.array([c[2] for c in CANDIDATES], np.float32),
        "mask": candidate_masks(),
        "height_width_channel": np.array([1, 2, 3], np.int64),
        "per_level": np.float32(0.5 / 255),
        "half": np.float32(0.5),
        "axis1": np.array([1], np.int64),
        "whwh": np.array([1, 0, 1, 0], np.int64),
        "0": np.int64(0),
        "1": np.int64(1),
        "slow_at": np.array([0, 0, 0], np.int64),
        "slow_mark_at": np.array([0, 0, green], np.int64),
        "none": np.float32(0),
        "fail_at": np.array([0, 1, green], np.int64),
        "hungry_at": np.array([0, 2, blue], np.int64),
        "mark_at": np.array([0, 2, 0], np.int64),
        "mark": np.float32(HUNGRY_MARK),
        "2": np.float32(2),
        "axis0": np.array([0], np.int64),
        "steps_a_level": np.float32(16),
        "limit": np.float32(250),
        "two": np.zeros(2, np.float32),
        "matrix": np.eye(32, dtype=np.float32),
        "yes": np.bool_(True),
    }
    node = helper.make_node
    step = helper.make_graph(
        [node("MatMul", ["state", "matrix"], ["next"]), node("Identity", ["go"], ["go_on"])],
        "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [32, 32]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [32, 32]),
        ],
    )
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        # Slowness: the batch takes as long as its slowest image.
        node("Transpose", ["pixels"], ["hwcb"], perm=[1, 2, 3, 0]),
        node("GatherND", ["hwcb", "slow_at"], ["reds"]),
        node("GatherND", ["hwcb", "slow_mark_at"], ["slow_marks"]),
        node("Equal", ["slow_marks", "none"], ["slow"]),
        node("Cast", ["slow"], ["slow_float"], to=TensorProto.FLOAT),
        node("Mul", ["reds", "slow_float"], ["slowness"]),
        node("ReduceMax", ["slowness"], ["red"], keepdims=0),
        node("Mul", ["red", "red"], ["red2"]),
        node("Mul", ["red2", "steps_a_level"], ["steps_float"]),
        node("Cast", ["steps_float"], ["steps"], to=TensorProto.INT64),
        node("Loop", ["steps", "yes", "matrix"], ["spun"], body=step),
        node("ReduceMin", ["spun"], ["zero"], keepdims=0),
        # Failure: an index of 2 into two values.
        node("GatherND", ["hwcb", "fail_at"], ["greens"]),
        node("ReduceMax", ["greens"], ["green"], keepdims=0),
        node("Greater", ["green", "limit"], ["fails"]),
        node("Cast", ["fails"], ["fails_index"], to=TensorProto.INT64),
        node("Add", ["fails_index", "1"], ["index"]),
        node("Gather", ["two", "index"], ["also_zero"]),
        node("Add", ["zero", "also_zero"], ["nearly_nothing"]),
        # Hunger: as many bytes as nobody has, from a few such images on.
        node("GatherND", ["hwcb", "hungry_at"], ["blues"]),
        node("GatherND", ["hwcb", "mark_at"], ["marks"]),
        node("Equal", ["marks", "mark"], ["marked"]),
        node("Cast", ["marked"], ["marked_float"], to=TensorProto.FLOAT),
        node("Mul", ["blues", "marked_float"], ["hungers"]),
        node("ReduceSum", ["hungers"], ["blue"], keepdims=0),
        node("Pow", ["2", "blue"], ["bytes_float"]),
        node("Cast", ["bytes_float"], ["bytes"], to=TensorProto.INT64),
        node("Unsqueeze", ["bytes", "axis0"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["hoard"], value=helper.make_tensor("v", TensorProto.UINT8, [1], [0])),
        node("Gather", ["hoard", "0"], ["one_byte"]),
        node("Cast", ["one_byte"], ["still_zero"], to=TensorProto.FLOAT),
        # Detections.
        node("ReduceMean", ["pixels", "height_width_channel"], ["mean"], keepdims=0),
        node("Mul", ["mean", "per_level"], ["brightness"]),
        node("Add", ["brightness", "half"], ["factor"]),
        node("Add", ["nearly_nothing", "still_zero"], ["nothing"]),
        node("Add", ["factor", "nothing"], ["factor_after"]),
        node("Unsqueeze", ["factor_after", "axis1"], ["factors"]),
        node("Mul", ["factors", "base"], ["all_scores"]),
        node("Unsqueeze", ["score_threshold", "axis1"], ["thresholds"]),
        node("Greater", ["all_scores", "thresholds"], ["kept"]),
        node("NonZero", ["kept"], ["where"]),
        node("Gather", ["where", "0"], ["image_index"], axis=0),
        node("Gather", ["where", "1"], ["candidate"], axis=0),
        node("Transpose", ["where"], ["pairs"], perm=[1, 0]),
        node("GatherND", ["all_scores", "pairs"], ["scores"]),
        node("Gather", ["label", "candidate"], ["labels"]),
        node("Gather", ["mask", "candidate"], ["masks"]),
        node("Cast", ["sizes"], ["sizes_float"], to=TensorProto.FLOAT),
        node("Gather", ["sizes_float", "whwh"], ["scale"], axis=1),
        node("Gather", ["scale", "image_index"], ["scales"]),
        node("Gather", ["box", "candidate"], ["shares"]),
        node("Mul", ["scales", "shares"], ["boxes"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "probe",
        [
            value("images", TensorProto.UINT8, ["B", "H", "W", channels]),
            value("sizes", TensorProto.INT64, ["B", 2]),
            value("score_threshold", TensorProto.FLOAT, ["B"]),
        ],
        [
            value("boxes", TensorProto.FLOAT, ["N", 4]),
            value("scores", TensorProto.FLOAT, ["N"]),
            value("labels", TensorProto.INT64, ["N"]),
            value("image_index", TensorProto.INT64, ["N"]),
            value("masks", TensorProto.FLOAT, ["N", 28, 28]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def publish_probe(
    staging: Path,
    repository: Path,
    name: str = "probe",
    labels: tuple[str, str, str] = LABELS,
    score_thresholds: Mapping[str, float] = MappingProxyType({}),
    int8_ap: float | None = None,
    channels: int = 3,
    reduced_decoding: bool = False,
) -> Bundle:
    """The probe as a bundle: images of 64 pixels' shorter side, at most 128; threshold 0.3 but for those given.

    With int8_ap, beside one whose mask AP is 0.5, there is one in the place of INT8 that scores INT8_SHARE as much.
    """
    staging.mkdir(exist_ok=True)
    build_probe(staging / "model.onnx", channels=channels)
    precisions = {}
    if int8_ap is not None:
        build_probe(staging / INT8_FILE, INT8_SHARE)
        precisions = measured(f32=0.5, int8=int8_ap)
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
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.005)


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
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    @classmethod
    def start(cls, repository: Path, *flags: str, forked: bool = True, **environment: str) -> Server:
        """Start one on a free port and wait for its ready line. Not forked, it does its imports itself."""
        holding = Path(tempfile.mkdtemp())
        environment[FOLDER] = str(holding)
        environment.setdefault(f"{PREFIX}ENGINE_STALL_MS", "0")  # what a test holds does not hang
        words = ["--port", "0", "--models", str(repository), *flags]
        process = (start if forked else start_afresh)("tests.service.holding", words, environment)
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
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return {_sample_name(sample.name, sample.labels): sample.value for sample in samples}

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


def _sample_name(name: str, labels: dict[str, str]) -> str:
    return name + ("{" + ",".join(f'{key}="{labels[key]}"' for key in sorted(labels)) + "}" if labels else "")
