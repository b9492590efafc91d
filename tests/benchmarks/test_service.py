"""The comparison with other servers: its client, its judgment of answers, its null model, and a small run of it all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from benchmarks.measure import Comparison, Spread, Timing
from benchmarks.peers import wire
from benchmarks.peers.network import NULL_DETECTIONS, NULL_SIZE, Answer, NullDetector
from benchmarks.service.__main__ import main, read_samples
from benchmarks.service.answers import compare
from benchmarks.service.client import first_answer, load
from benchmarks.service.null import null_photograph, publish_null
from benchmarks.service.report import targets
from model.runtime.images.decode import decode_image
from model.runtime.predict import Predictor

# pycocotools on a newer numpy
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


class Echo(BaseHTTPRequestHandler):
    """Answers with the body, in chunks if it begins with "c"; hangs up on "x", refuses "r"."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body.startswith(b"x"):
            self.close_connection = True
            return
        self.send_response(503 if body.startswith(b"r") else 200)
        if body.startswith(b"c"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (body[:2], body[2:]):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def echo() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize("connections", [1, 4])
def test_every_request_is_sent_once_and_its_answer_read_whole(connections: int) -> None:
    bodies = [b"plain", b"chunked", b"", b"refused", b"plain" * 50_000]
    with echo() as port:
        found = load(port, [wire.raw("/", body, "text/plain") for body in bodies], 13, connections, keep=True)
    assert sorted(one.image for one in found.exchanges) == sorted(number % 5 for number in range(13))
    assert all(one.body == bodies[one.image] for one in found.exchanges)
    assert found.failed == [503, 503]
    assert all(0 < one.seconds <= found.seconds for one in found.exchanges)
    assert [one.image for one in found.exchanges[:5]] == [0, 1, 2, 3, 4] or connections > 1


def test_a_broken_connection_is_one_failed_request() -> None:
    with echo() as port:
        found = load(port, [wire.raw("/", body, "text/plain") for body in (b"a", b"x", b"chunked")], 6, 1)
    assert [one.status for one in found.exchanges] == [200, 0, 200, 200, 0, 200]
    assert all(one.body == b"" for one in found.exchanges), "bodies were kept"


def test_a_server_that_ended_is_not_waited_for() -> None:
    def ended() -> None:
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError, match="ended"):
        first_answer(1, b"", ended)


def _answer(*boxes: tuple[int, int, int, int], label: int = 1) -> Answer:
    """Filled boxes as detections in an image of 60x80 pixels."""
    masks = []
    for x1, y1, x2, y2 in boxes:
        mask = np.zeros((60, 80), np.uint8, order="F")
        mask[y1:y2, x1:x2] = 1
        rle = coco.encode(mask)
        masks.append({"size": [60, 80], "counts": rle["counts"].decode()})
    scores = [0.9 - 0.1 * k for k in range(len(boxes))]
    return {
        "boxes": [list(map(float, box)) for box in boxes],
        "labels": [label] * len(boxes),
        "scores": scores,
        "masks": masks,
    }


ONE, TWO = (10, 10, 30, 30), (40, 10, 60, 50)


@pytest.mark.parametrize(
    ("under_load", "changed", "lowest"),
    [
        (_answer(ONE, TWO), 0, 1.0),
        ({**_answer(ONE, TWO), "scores": [0.9 + 1e-5, 0.8]}, 0, 1.0),
        ({**_answer(ONE, TWO), "scores": [0.95, 0.8]}, 1, 1.0),
        (_answer(ONE, (40, 10, 60, 30)), 1, 0.5),  # half of a mask is gone
        (_answer(ONE), 1, 0.0),  # a detection is gone
        (_answer(ONE, TWO, (62, 0, 70, 5)), 1, 0.0),  # and one that came
        (_answer(ONE, TWO, label=2), 1, 0.0),
        (_answer(), 1, 0.0),
    ],
)
def test_a_changed_answer_is_seen_and_rounding_is_not(under_load: Answer, changed: int, lowest: float) -> None:
    alone = [_answer(ONE, TWO), _answer()]
    found = compare(alone, [(0, _answer(ONE, TWO)), (1, _answer()), (0, under_load)])
    assert (found.images, found.answers) == (2, 3)
    assert (found.changed_images, found.changed_answers) == (changed, changed)
    assert found.lowest_iou == pytest.approx(lowest)


def test_the_null_model_detects_the_same_in_every_image(tmp_path: Path) -> None:
    bundle = publish_null(tmp_path / "staging", tmp_path / "models")
    photograph = decode_image(null_photograph())
    assert photograph.shape == (*NULL_SIZE, 3)
    predictor = Predictor.of_bundle(bundle, device="cpu", threads=1, batch_size=3)
    found = predictor.predict([photograph, photograph // 2, photograph], 0.05)
    predictor.close()
    assert [len(one) for one in found] == [NULL_DETECTIONS] * 3
    for one in found:
        assert one.masks is not None
        assert all(coco.area({"size": rle.size, "counts": rle.counts}) > 500 for rle in one.masks)
        assert np.array_equal(one.boxes, found[0].boxes)
    peers = NullDetector().predict([Image.new("RGB", (1, 1))])[0]
    assert found[0].masks is not None
    ours = {
        "boxes": found[0].boxes.tolist(),
        "labels": found[0].labels.tolist(),
        "scores": found[0].scores.tolist(),
        "masks": [{"size": list(rle.size), "counts": rle.counts.decode()} for rle in found[0].masks],
    }
    assert compare([peers], [(0, peers)]).changed_answers == 0
    assert compare([peers], [(0, ours)]).lowest_iou > 0.7, "the peers' null model answers something else"


@pytest.mark.timeout(600)  # servers that import torch are started, and a busy machine takes its time
def test_a_small_run_measures_everything(
    tiny_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(64, 64), (96, 64)]):
        Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)).save(images / f"{number}.png")
    figures = tmp_path / "figures.json"
    model = str(tiny_repository / "tiny" / "1")
    status = main(["--quick", "--model", model, "--images", str(images), "--json", str(figures)])
    comparisons = json.loads(figures.read_text())["comparisons"]
    assert status == int(not all(one["valid"] for one in comparisons))
    kinds = [one["details"]["kind"] for one in comparisons]
    assert kinds == ["tuned", "tuned", "null", "null", "engine", "growth", "start"]
    for one in comparisons[:4]:
        assert one["reference"] == "fastapi"
        for name, server in one["details"]["servers"].items():
            assert server["failed"] == []
            assert server["requests_per_second"] > 0
            assert 0 < server["p50_ms"] <= server["p99_ms"]
            assert server["processor_ms_per_request"] > 0
            assert server["peak_bytes"] >= server["resident_bytes"] > 20e6
            if one["details"]["connections"] == 8:
                assert server["agreement"]["changed_answers"] == 0, name
                assert server["agreement"]["lowest_iou"] > 0.99
    assert comparisons[5]["details"]["requests"] >= 50
    assert len(comparisons[5]["details"]["resident_bytes"]) > 2
    seconds = comparisons[6]["details"]["seconds_to_first_answer"]
    assert {name: len(found) for name, found in seconds.items()} == {"maskserve": 1, "fastapi": 1}
    printed = capsys.readouterr().out
    assert "not measured as documented" in " ".join(printed.split())


def test_peers_that_are_not_set_up_are_skipped_with_the_reason(
    tiny_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--model", str(tiny_repository / "tiny" / "1"), "--environments", str(tmp_path)]
    assert main([*places, "--peers", "litserve,triton", "--only", "load"]) == 0
    printed = capsys.readouterr()
    assert "SKIPPED litserve" in printed.err
    assert "benchmarks.peers.setup triton" in printed.err
    assert "not measured" in printed.out


def comparison(peer: str, ours: float, theirs: float, connections: int = 8, kind: str = "tuned") -> Comparison:
    """Of servers that answer so many requests a second."""
    spread = Spread.of([1.0])
    ratio = ours / theirs
    timings = (
        Timing("maskserve", spread, (1.0,), ratio, Spread.of([ratio])),
        Timing(peer, spread, (1.0,), 1.0, spread),
    )
    servers = {
        name: {"p50_ms": 1000 / rate, "p99_ms": 2000 / rate, "peak_bytes": 600e6, "agreement": agreement}
        for name, rate in (("maskserve", ours), (peer, theirs))
        for agreement in [{"changed_answers": 0, "answers": 9} if connections > 1 else None]
    }
    details = {"kind": kind, "peer": peer, "connections": connections, "servers": servers}
    return Comparison(peer, timings, 1.0, 0.0, True, details)


def test_the_worst_peer_counts_for_a_target() -> None:
    found = targets([comparison("fastapi", 3, 1), comparison("litserve", 3, 1.5), comparison("triton", 9, 1, 1)])
    same, documented, p99, unchanged, *_, memory, _growth, _start = found
    assert (same.met, same.found) == (False, "2.00 litserve")
    assert documented.met is None
    assert (p99.met, p99.found) == (True, "2.00 litserve")
    assert (unchanged.met, unchanged.found) == (True, "0 of 18")
    assert memory.met is True


@pytest.mark.parametrize(
    ("peer", "alone", "many", "met"),
    [
        pytest.param("fastapi", 400, 450, (True, True), id="near enough"),
        pytest.param("fastapi", 350, 450, (False, True), id="slow alone"),
        pytest.param("fastapi", 400, 440, (True, False), id="slow with others"),
        pytest.param("litserve", 100, 100, (None, None), id="nobody's bare handler"),
    ],
)
def test_the_null_model_is_held_against_a_bare_handler(
    peer: str, alone: float, many: float, met: tuple[bool | None, bool | None]
) -> None:
    measured = [comparison(peer, alone, 500, 1, "null"), comparison(peer, many, 500, 8, "null")]
    found = [target for target in targets(measured) if "bare FastAPI handler's" in target.wanted]
    assert tuple(target.met for target in found) == met


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no PNG or JPEG files"):
        read_samples(tmp_path)
