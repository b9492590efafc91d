"""How each server is started and asked: ours and the peers, one entry a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import wire
from benchmarks.peers.network import ARCHITECTURE, WEIGHTS, Answer
from benchmarks.peers.processes import free_port
from benchmarks.peers.settings import BATCH, DELAY_SECONDS, PeerSettings
from model.runtime.bundles.manifest import PrecisionChoice

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Server:
    """What the benchmarks know of a server.

    command: (interpreter, settings, an empty folder) -> what starts it; it may write into the folder.
    request: (image file, its content type, as documented?) -> a whole HTTP request.
    answer: the body of an answer with status 200 -> its detections.
    environment: (interpreter, folder) -> further variables.
    """

    name: str
    command: Callable[[Path, PeerSettings, Path], list[str]]
    request: Callable[[bytes, str, bool], bytes]
    answer: Callable[[bytes, bool], Answer]
    environment: Callable[[Path, Path], Mapping[str, str]] = lambda python, folder: {}
    own_environment: bool = True
    """Whether it needs an environment that `setup` makes; else it runs in the project's."""
    missing: Callable[[], str | None] = lambda: None
    """What else it needs that this machine lacks."""


def ours(
    repository: Path, name: str, score_threshold: float, processes: int = 1, precision: PrecisionChoice = "f32"
) -> Server:
    """maskserve with one model of a repository, asked for scores above the threshold."""

    def command(python: Path, settings: PeerSettings, folder: Path) -> list[str]:
        flags = ["--models", str(repository), "--model", name, "--port", str(settings.port), "--device", "cpu"]
        flags += ["--processes", str(processes), "--precision", precision]
        # Eight clients that wait for slow answers are no overload.
        return [str(python), "-m", "service", *flags, "--timeout-ms", str(TIMEOUT_SECONDS * 1000)]

    def request(image: bytes, content_type: str, documented: bool) -> bytes:
        return wire.raw(f"/predict?score_threshold={score_threshold}", image, content_type)

    return Server("maskserve", command, request, lambda body, _: wire.from_json(body), own_environment=False)


def _module(name: str) -> Callable[[Path, PeerSettings, Path], list[str]]:
    return lambda python, settings, folder: [str(python), "-m", f"benchmarks.peers.{name}"]


def _fastapi_request(image: bytes, content_type: str, documented: bool) -> bytes:
    if documented:
        return wire.multipart("/predict", "file", image, content_type)
    return wire.raw("/predict", image, content_type)


def _bentoml_command(python: Path, settings: PeerSettings, folder: Path) -> list[str]:
    service = "benchmarks.peers.bentoml_service:Detector"
    return [str(python), "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(settings.port)]


def _bentoml_request(image: bytes, content_type: str, documented: bool) -> bytes:
    path, field = ("/predict", "image") if documented else ("/predict_batch", "images")
    return wire.multipart(path, field, image, content_type)


def _torchserve_command(python: Path, settings: PeerSettings, folder: Path) -> list[str]:
    """Makes the archive, whose making is not part of the start, and the configuration."""
    store = folder / "store"
    store.mkdir()
    archive = [str(python.parent / "torch-model-archiver"), "--model-name", "detector", "--version", "1.0"]
    archive += ["--handler", str(HERE / "torchserve_handler.py"), "--export-path", str(store)]
    if settings.model is not None:
        archive += ["--serialized-file", str(settings.model / WEIGHTS)]
        archive += ["--extra-files", str(settings.model / ARCHITECTURE)]
    if not settings.documented:
        model = folder / "model.yaml"
        model.write_text(
            f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {BATCH}\nmaxBatchDelay: {round(DELAY_SECONDS * 1000)}\n"
            f"responseTimeout: {TIMEOUT_SECONDS}\n"
        )
        archive += ["--config-file", str(model)]
    subprocess.run(archive, check=True, stdout=subprocess.DEVNULL)
    properties = folder / "config.properties"
    properties.write_text(
        f"inference_address=http://127.0.0.1:{settings.port}\n"
        f"management_address=http://127.0.0.1:{free_port()}\n"
        f"metrics_address=http://127.0.0.1:{free_port()}\n"
        f"grpc_inference_port={free_port()}\n"
        f"grpc_management_port={free_port()}\n"
        "max_response_size=65535000\n"
    )
    start = [str(python), "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    return [*start, "--ts-config", str(properties), "--model-store", str(store), "--models", "detector=detector.mar"]


def _triton_command(python: Path, settings: PeerSettings, folder: Path) -> list[str]:
    return [str(python), "-m", "benchmarks.peers.triton_server", str(free_port()), str(free_port())]


def _java() -> str | None:
    return None if shutil.which("java") else "no java on the PATH: install Java 17"


PEERS: Mapping[str, Server] = {
    peer.name: peer
    for peer in (
        Server(
            "fastapi",
            _module("fastapi_server"),
            _fastapi_request,
            lambda body, _: wire.from_json(body),
            own_environment=False,
        ),
        Server(
            "litserve",
            _module("litserve_server"),
            lambda image, content_type, _: wire.multipart("/predict", "file", image, content_type),
            lambda body, _: wire.from_json(body),
        ),
        Server(
            "bentoml",
            _bentoml_command,
            _bentoml_request,
            lambda body, documented: wire.from_json(body) if documented else wire.from_list(body),
            lambda python, folder: {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"},
        ),
        Server(
            "torchserve",
            _torchserve_command,
            lambda image, content_type, _: wire.raw("/predictions/detector", image, "application/octet-stream"),
            lambda body, _: wire.from_json(body),
            # Its process id lies in the folder for temporary files: two could not run otherwise.
            lambda python, folder: {
                "TMPDIR": str(folder),
                "LOG_LOCATION": str(folder),
                "METRICS_LOCATION": str(folder),
            },
            missing=_java,
        ),
        Server(
            "triton",
            _triton_command,
            lambda image, content_type, _: wire.inference("/v2/models/detector/infer", image),
            lambda body, _: wire.from_inference(body),
        ),
    )
}
"""The peers by name. All but Triton's frontend are Python or Java with Python workers."""


def interpreter(server: Server, environments: Path) -> Path:
    """The Python that runs it. FileNotFoundError, which says what to do, when its environment is missing."""
    if (reason := server.missing()) is not None:
        raise FileNotFoundError(reason)
    if not server.own_environment:
        return Path(sys.executable)
    folder = environments / server.name
    if not (folder / "complete").is_file():
        raise FileNotFoundError(
            f"{folder} is not there or not complete: run python -m benchmarks.peers.setup {server.name}"
        )
    return folder / "bin" / "python"
