"""The whole service, JPEG in and JSON out, on the same network: `python -m service` on an exported bundle."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch

from benchmarks.gpu.case import Case, make_batch
from benchmarks.gpu.contenders import Skip

NEEDED = ("fastapi", "httptools", "onnxruntime", "orjson", "pydantic_settings", "uvicorn", "uvloop")
CONNECTIONS = 48
JPEGS = 8
JPEG_QUALITY = 90

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
    """What the clients saw: answers with status 200 a second, and the median seconds of one."""

    engine: str
    images_per_second: float
    median_seconds: float | None
    connections: int


def serve(case: Case, seconds: float) -> Served:
    """Exports, starts the service on the GPU and asks for `seconds`. Skip, with the reason, where that can't be."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")
    if case.device.type != "cuda":
        raise Skip("the service is measured on a CUDA device alone; benchmarks.overload is its measure on a CPU")
    import onnxruntime

    on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    engine = "onnx" if on_gpu else "torchscript"
    with tempfile.TemporaryDirectory() as folder:
        photographs = _photographs(case, Path(folder))
        models = Path(folder) / "models"
        _publish(case, Path(folder) / "staging", models)
        command = [sys.executable, "-m", "service", "--port", "0", "--models", str(models), "--device", "cuda"]
        command += ["--engine", engine, "--warm-up", "one", "--max-batch-size", "16", "--timeout-ms", "120000"]
        log = Path(folder) / "stderr"
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            address = _wait_ready(process, log)
            arguments = [address, str(seconds), str(CONNECTIONS), *map(str, photographs)]
            client = subprocess.run(
                [sys.executable, "-c", CLIENT, *arguments], capture_output=True, text=True, timeout=4 * seconds + 120
            )
        finally:
            process.terminate()
            process.wait(30)
    if client.returncode != 0:
        raise Skip(f"the client failed: {client.stderr[-500:]}")
    seen = json.loads(client.stdout)
    return Served(engine, seen["images"] / seen["seconds"], seen["median"], CONNECTIONS)


def _photographs(case: Case, folder: Path) -> list[Path]:
    from PIL import Image

    pixels = make_batch(case.scale, JPEGS, torch.device("cpu")).images.numpy()
    paths = []
    for number, image in enumerate(pixels[:, : case.scale.height, : case.scale.width]):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(buffer.getvalue())
    return paths


def _publish(case: Case, staging: Path, models: Path) -> None:
    try:
        from model.architecture import PRESETS
        from model.network.exporting.export import export_onnx, export_torchscript
        from model.runtime.bundles.bundle import publish_bundle
        from model.runtime.bundles.manifest import ManifestDraft, Provenance, ServingDefaults
        from model.runtime.preprocess import Preprocessing
    except ImportError as error:
        raise Skip(f"exporting needs a package that is not installed: {error}") from error
    config = PRESETS["maskrcnn_resnet50_fpn"]
    staging.mkdir()
    export_onnx(case.model, staging / "model.onnx")
    export_torchscript(case.model, staging / "model.torchscript.pt")
    draft = ManifestDraft(
        architecture=config,
        class_names=tuple(f"class {number}" for number in range(1, config.num_classes)),
        preprocessing=Preprocessing.from_architecture(config),
        provenance=Provenance(dataset="none: random weights", license="Apache-2.0"),
        defaults=ServingDefaults(score_threshold=0.05, max_detections=case.scale.detections),
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
