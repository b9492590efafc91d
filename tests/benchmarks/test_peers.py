"""What the peers serve and how they are run, as far as the project's own environment goes."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from benchmarks.peers import wire
from benchmarks.peers.fastapi_server import create_app
from benchmarks.peers.network import NULL_SIZE, Answer, NullDetector, TorchvisionDetector, build
from benchmarks.peers.prepare import NotTorchvisionsError, main, prepare
from benchmarks.peers.processes import Tree
from benchmarks.peers.servers import PEERS, interpreter
from benchmarks.peers.setup import _requirements
from benchmarks.service.null import null_photograph
from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.predict import Predictor

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="processes are found in /proc")


@pytest.fixture
def tiny(tiny_repository: Path) -> Bundle:
    return open_bundle(tiny_repository / "tiny" / "1")


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_the_peers_network_detects_what_ours_does(tiny: Bundle, tmp_path: Path) -> None:
    assert main(["--model", str(tiny.path), "--output", str(tmp_path)]) == 0
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    (theirs,) = TorchvisionDetector(tmp_path).predict([Image.fromarray(pixels)])
    predictor = Predictor.of_bundle(tiny, device="cpu", threads=1)
    (ours,) = predictor.predict([pixels], 0.05)
    predictor.close()
    assert ours.masks is not None
    assert 0 < len(ours) == len(theirs["scores"]) == len(theirs["masks"])
    assert theirs["labels"] == ours.labels.tolist()
    assert np.allclose(theirs["scores"], ours.scores, rtol=0, atol=1e-4)
    assert np.allclose(theirs["boxes"], ours.boxes, rtol=0, atol=0.05)
    for mask, rle in zip(theirs["masks"], ours.masks, strict=True):
        assert mask["size"] == [64, 96]
        assert coco.iou([mask], [{"size": [64, 96], "counts": rle.counts}], [0])[0, 0] > 0.95


@pytest.mark.parametrize(("allow_downscale", "side"), [(True, 64), (False, 200)])
def test_large_images_are_resized_as_the_bundle_says(allow_downscale: bool, side: int) -> None:
    config = ArchitectureConfig(backbone="resnet18", min_size=64, max_size=400, allow_downscale=allow_downscale)
    model = build(config.model_dump(mode="json")).eval()
    small, large = torch.zeros(3, 32, 48), torch.zeros(3, 200, 300)
    assert model.transform([small])[0].image_sizes == [(64, 96)]
    assert model.transform([large])[0].image_sizes[0][0] == side
    assert model.transform([large, small])[0].image_sizes[1] == (64, 96)


def test_what_torchvision_alone_cannot_build_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    architecture = tiny.manifest.architecture.model_copy(update={"roi_pooling": "pool", "norm": "group_norm"})
    bundle = Bundle(tiny.path, tiny.manifest.model_copy(update={"architecture": architecture}))
    with pytest.raises(NotTorchvisionsError, match="roi_pooling pool, norm group_norm"):
        prepare(bundle, tmp_path)


@pytest.mark.parametrize("documented", [False, True])
def test_a_fastapi_peer_answers_the_request_made_for_it(documented: bool) -> None:
    peer = PEERS["fastapi"]
    head, _, body = peer.request(null_photograph(), "image/jpeg", documented).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split()
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(NullDetector(), documented))
        async with httpx.AsyncClient(transport=transport, base_url="http://peer") as client:
            return await client.request(method, path, content=body, headers=headers)

    response = asyncio.run(ask())
    assert response.status_code == 200, response.text
    answer = peer.answer(response.content, documented)
    assert len(answer["scores"]) == len(answer["masks"]) == 20
    assert answer["masks"][0]["size"] == list(NULL_SIZE)


def test_a_triton_answer_is_read_from_behind_its_head() -> None:
    answer: Answer = {"boxes": [[1, 2, 3, 4]], "labels": [1], "scores": [0.5], "masks": []}
    data = json.dumps(answer).encode()
    tensor = struct.pack("<I", len(data)) + data
    head = {"outputs": [{"name": "answer", "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}]}
    assert wire.from_inference(json.dumps(head).encode() + tensor) == answer


def test_a_triton_request_says_where_its_head_ends() -> None:
    head, _, body = wire.inference("/v2/models/m/infer", b"\x00image\r\n\r\n").partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    end = int(headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:end])["inputs"]
    assert len(body) - end == tensor["parameters"]["binary_data_size"]
    assert body[end:] == struct.pack("<I", 10) + b"\x00image\r\n\r\n"


def test_a_peer_without_its_environment_says_how_to_make_it(tmp_path: Path) -> None:
    assert interpreter(PEERS["fastapi"], tmp_path) == Path(sys.executable)
    (tmp_path / "litserve").mkdir()  # begun and not completed
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.peers\.setup litserve"):
        interpreter(PEERS["litserve"], tmp_path)


def test_a_package_is_installed_with_what_it_asks_for_but_for_one_version(tmp_path: Path) -> None:
    metadata = tmp_path / "peer-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    asked = ("certifi>=2999", 'tomli>=1; python_version < "3.11"', "a-b[c]~=1.2", 'd; extra == "all"')
    metadata.write_text("Name: peer\nVersion: 1.0\n" + "".join(f"Requires-Dist: {line}\n" for line in asked))
    assert _requirements(tmp_path, "peer", ("certifi",)) == ["certifi", asked[1], asked[2]]


@needs_proc
def test_a_server_is_stopped_and_ended_with_all_its_processes(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(600)"
    # A child in a session of its own, and a server that SIGTERM alone doesn't end.
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    tree = Tree([sys.executable, "-c", program], {}, tmp_path)
    try:
        _wait(lambda: "started" in tree.last_words())
        pids = tree.pids()
        assert len(pids) == 2
        tree.pause()
        _wait(lambda: [_state(pid) for pid in pids] == ["T", "T"])
        assert tree.resident() > 2 * 2**20
        assert tree.peak() >= tree.resident()
        tree.resume()
        _wait(lambda: "T" not in [_state(pid) for pid in pids])
    finally:
        tree.end(patience=0.2)
    assert tree.process.returncode == -9
    _wait(lambda: all(_state(pid) in ("Z", "gone") for pid in pids))


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_every_peers_program_compiles_and_names_no_module_of_ours() -> None:
    """They run where maskserve is not installed, next to the peers' packages."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
    for name in ("fastapi_server", "litserve_server", "bentoml_service", "torchserve_handler", "triton_server"):
        text = (folder / f"{name}.py").read_text()
        compile(text, name, "exec")
        assert "from model" not in text
        assert "from service" not in text
    blocked = "import sys; sys.modules.update(model=None, service=None, numpy=None); import benchmarks.peers.network"
    subprocess.run([sys.executable, "-c", blocked], check=True, cwd=folder.parents[1])
