"""The whole service, JPEG in and JSON out, on the same network: `python -m service` on an exported bundle.

    python -m benchmarks.gpu.served --json served.json         the engine cuda in fp16 and float32, ONNX Runtime
    python -m benchmarks.gpu.served --device cpu --dry-run --json served.json     tiny, ONNX Runtime alone, anywhere

Each service is asked by as many connections as keep it busy; the photographs are decoded by it. Then once more, and
every answer is compared with the same photograph's without any other request: no score may differ by more than SCORE.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.gpu.case import FULL, TINY, Case, make_batch, make_case
from benchmarks.gpu.contenders import Skip

NEEDED = ("fastapi", "httptools", "orjson", "pydantic_settings", "uvicorn", "uvloop")
CONNECTIONS = 48
JPEGS = 8
JPEG_QUALITY = 90
SECONDS = 20.0
SCORE: Final = 1e-3

CLIENT = """
import concurrent.futures, http.client, json, sys, time
address, seconds, threads, photographs = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
bodies = [open(path, "rb").read() for path in photographs]
def ask(number, end):
    connection, latencies = http.client.HTTPConnection(address, timeout=120), []
    while time.perf_counter() < end:
        began = time.perf_counter()
        connection.request("POST", "/predict?score_threshold=0.05", bodies[number % len(bodies)],
                           {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            latencies.append(time.perf_counter() - began)
        number += 1
    return latencies
with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for run in (seconds / 2, seconds):  # the first half warms every batch size up
        began = time.perf_counter()
        found = list(pool.map(ask, range(threads), [began + run] * threads))
        took = time.perf_counter() - began
latencies = sorted(sum(found, []))
median = latencies[len(latencies) // 2] if latencies else None
print(json.dumps({"images": len(latencies), "seconds": took, "median": median}))
"""


@dataclass(frozen=True)
class Served:
    """How long the start took, and what the clients saw: answers with status 200 a second, median seconds of one.
    `unchanged`: how many of the photographs were answered under load as without."""

    engine: str
    seconds_to_ready: float
    images_per_second: float
    median_seconds: float | None
    connections: int
    photographs: int
    unchanged: int

    @property
    def good(self) -> bool:
        """Whether it answered, and alike."""
        return self.images_per_second > 0 and self.unchanged == self.photographs


def serve(case: Case, seconds: float) -> Served:
    """Exports, starts the service on the GPU and asks for `seconds`. Skip, with the reason, where that can't be."""
    if case.device.type != "cuda":
        raise Skip("the service is measured on a CUDA device alone; benchmarks.overload is its measure on a CPU")
    engine = "onnx" if "CUDAExecutionProvider" in _onnx_providers() else "torchscript"
    with published(case) as folder:
        return ask(folder, engine, ("--device", "cuda", "--warm-up", "one", "--max-batch-size", "16"), seconds)


@contextmanager
def published(case: Case) -> Iterator[Path]:
    """A folder with the exported network under `models`, and photographs. Skip where something is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photographs(case, folder)
        _publish(case, folder / "staging", folder / "models")
        yield folder


@contextmanager
def started(folder: Path, engine: str, options: Sequence[str]) -> Iterator[str]:
    """The address of the service on what is published in the folder. Skip where it does not get ready."""
    command = [sys.executable, "-m", "service", "--port", "0", "--models", str(folder / "models"), "--engine", engine]
    command += ["--timeout-ms", "120000", *options]
    log = folder / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield _wait_ready(process, log)
    finally:
        process.terminate()
        process.wait(30)


def ask(folder: Path, engine: str, options: Sequence[str], seconds: float) -> Served:
    """Starts the service on what is published in the folder, and asks for `seconds`. Skip where it does not answer."""
    began = time.perf_counter()
    with started(folder, engine, options) as address:
        ready = time.perf_counter() - began
        arguments = [address, str(seconds), str(CONNECTIONS), *map(str, sorted(folder.glob("*.jpg")))]
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, *arguments], capture_output=True, text=True, timeout=4 * seconds + 120
        )
        if client.returncode != 0:
            raise Skip(f"the client failed: {client.stderr[-500:]}")
        photographs = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
        same = unchanged(address, photographs, seconds / 2)
    seen = json.loads(client.stdout)
    rate = seen["images"] / seen["seconds"]
    return Served(engine, ready, rate, seen["median"], CONNECTIONS, len(photographs), same)


def unchanged(address: str, photographs: Sequence[bytes], seconds: float) -> int:
    """How many of the photographs are answered by a service that is busy for so long as by one with nothing else to
    do; each connection asks at least once."""
    with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
        alone = [answer_of(connection, photograph) for photograph in photographs]

    def ask(number: int) -> set[int]:
        """Which it answered otherwise."""
        otherwise = set()
        with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
            for turn in itertools.count(number):
                index = turn % len(photographs)
                apart = furthest([alone[index]], [answer_of(connection, photographs[index])])
                if apart is None or apart > SCORE:
                    otherwise.add(index)
                if time.perf_counter() >= end:
                    return otherwise
        return otherwise

    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return len(photographs) - len(set().union(*pool.map(ask, range(CONNECTIONS))))


def answer_of(connection: http.client.HTTPConnection, photograph: bytes) -> dict[str, Any]:
    """What the service says of it. Skip where it refuses it."""
    connection.request("POST", "/predict", photograph, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise Skip(f"a photograph is answered with {answer.status}: {content[:300]!r}")
    found: dict[str, Any] = json.loads(content)
    return found


def furthest(some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much the scores of two answers to the same requests differ at most; None where they do not find as many
    objects of the same labels."""
    differences = [0.0]
    for ours, theirs in zip(some, others, strict=True):
        mine, yours = _scores(ours), _scores(theirs)
        if {label: len(scores) for label, scores in mine.items()} != {label: len(s) for label, s in yours.items()}:
            return None
        differences += [abs(a - b) for label, own in mine.items() for a, b in zip(own, yours[label], strict=True)]
    return max(differences)


def _scores(answer: Mapping[str, Any]) -> Mapping[str, list[float]]:
    """Of each label, falling: of two labels with nearly one score either may come first."""
    scores = defaultdict(list)
    for label, score in zip(answer["labels"], answer["scores"], strict=True):
        scores[label].append(score)
    return {label: sorted(of_label, reverse=True) for label, of_label in scores.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a service and writes the JSON; the exit status is 1 when one did not answer, or not alike."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.served")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures are written")
    options = parser.parse_args(arguments)
    seconds = 1.0 if options.dry_run else SECONDS
    services: dict[str, tuple[str, ...]] = {"onnx f32": ("onnx", "--warm-up", "one")}
    if options.device == "cuda":
        services = {f"cuda {precision}": ("cuda", "--precision", precision) for precision in ("f16", "f32")} | services
    found: dict[str, dict[str, Any]] = {}
    with published(make_case(TINY if options.dry_run else FULL, torch.device(options.device))) as folder:
        for name, (engine, *words) in services.items():
            try:
                served = ask(folder, engine, ("--device", options.device, *words), seconds)
                found[name] = {"good": served.good, **asdict(served)}
            except Skip as reason:
                found[name] = {"good": False, "why": str(reason)}
            options.json.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    return 0 if all(service["good"] for service in found.values()) else 1


def _onnx_providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _photographs(case: Case, folder: Path) -> None:
    from PIL import Image

    pixels = make_batch(case.scale, JPEGS, torch.device("cpu")).images.numpy()
    for number, image in enumerate(pixels[:, : case.scale.height, : case.scale.width]):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())


def _publish(case: Case, staging: Path, models: Path) -> None:
    try:
        from model.architecture import PRESETS
        from model.network.exporting.export import export_onnx
        from model.network.exporting.torchscript import export_torchscript
        from model.runtime.bundles.bundle import publish_bundle
        from model.runtime.bundles.manifest import ManifestDraft, Provenance, ServingDefaults
        from model.runtime.preprocess import Preprocessing
    except ImportError as error:
        raise Skip(f"exporting needs a package that is not installed: {error}") from error
    scale = case.scale
    config = PRESETS["maskrcnn_resnet50_fpn"].model_copy(
        update={
            "backbone": scale.backbone,
            "num_classes": scale.classes,
            "min_size": scale.height,
            "max_size": scale.width,
            "anchor_sizes": tuple((side,) for side in scale.anchor_sides),
            "rpn_pre_nms_top_n_test": scale.pre_nms,
            "rpn_post_nms_top_n_test": scale.proposals,
            "detections_per_image": scale.detections,
        }
    )
    staging.mkdir()
    model = case.model_on_host()
    export_onnx(model, staging / "model.onnx")
    export_torchscript(model, staging / "model.torchscript.pt")
    draft = ManifestDraft(
        architecture=config,
        class_names=tuple(f"class {number}" for number in range(1, config.num_classes)),
        preprocessing=Preprocessing.from_architecture(config),
        provenance=Provenance(dataset="none: random weights", license="Apache-2.0"),
        defaults=ServingDefaults(score_threshold=0.05, max_detections=scale.detections),
    )
    publish_bundle(staging, draft, models, "benchmark")


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        ready = re.search(r"ready at http://(\S+)", log.read_text())
        if ready is not None:
            return ready[1]
        time.sleep(0.1)
    raise Skip(f"the service did not get ready: {log.read_text()[-500:]}")


if __name__ == "__main__":
    sys.exit(main())
