"""The run of everything: a step that fails or is late is written down, and the next one runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from benchmarks.gpu import everything, served, several, training
from benchmarks.gpu.everything import Done, Step, lines_of_step, main
from benchmarks.gpu.served import Served
from benchmarks.gpu.wanted import ENGINE, OVER_EAGER, OVER_ONNX, SHARE

WRITES = "import json, sys; json.dump({'a question': {'good': True, 'rate': 2}}, open(sys.argv[1], 'w'))"


def test_every_step_leaves_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        Step("late", ("-c", "import time; print('began', flush=True); time.sleep(60)"), 3),
        Step("broken", ("-c", "raise SystemExit('no such package')"), 60),
        Step("halfway", ("-c", "import sys; open(sys.argv[1], 'w').write('{\"a question\": {')", "FILE"), 60),
        Step("engine", ("-c", WRITES, "FILE"), 60),
    ]
    monkeypatch.setattr(everything, "steps", lambda dry_run: chosen)
    assert main(["--json", str(tmp_path / "all.json")]) == 1
    found = json.loads((tmp_path / "all.json").read_text())
    assert [found[step.name]["status"] for step in chosen] == [None, 1, 0, 0]
    assert found["halfway"]["found"] is None, "what a step leaves that is ended while it writes"
    assert found["engine"]["found"] == {"a question": {"good": True, "rate": 2}}
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("late         out of time")
    assert told[2].startswith("broken       failed (1)")
    assert told[3].strip() == "no such package"
    assert told[6].split() == ["good", "a", "question:", "rate", "2"]
    assert main(["--json", str(tmp_path / "one.json"), "--only", "engine"]) == 0


@pytest.mark.parametrize("dry_run", [False, True])
def test_every_step_is_a_program_that_is_there(dry_run: bool) -> None:
    programs = [step.command[1] for step in everything.steps(dry_run) if step.command[0] == "-m"]
    assert {
        "benchmarks.gpu.training",
        "benchmarks.gpu.precision",
        "benchmarks.gpu.served",
        "benchmarks.gpu.several",
    } <= {*programs}
    assert [program for program in programs if find_spec(program) is None] == []


def test_training_steps_are_taken_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two of them; and one that fails is a figure, and not the end."""
    ways = (training.Way("bf16", True, exact_boxes=False), training.Way("none", False), training.Way("fp8", False))
    monkeypatch.setattr(training, "WAYS", ways)
    file = tmp_path / "training.json"
    assert training.main(["--device", "cpu", "--dry-run", "--batches", "1", "--json", str(file)]) == 1
    coarse, exact, failed = json.loads(file.read_text()).items()
    assert (coarse[0], exact[0]) == ("1 images, bf16, boxes in it too, channels last", "1 images, none, contiguous")
    assert coarse[1]["first_loss"] == pytest.approx(exact[1]["first_loss"], rel=0.1)
    assert exact[1]["images_per_second"] > 0
    assert "amp" in failed[1]["error"]


@pytest.mark.parametrize(
    ("others", "by"),
    [
        ([[("cell", 0.75), ("cell", 0.5)], []], 0.0),
        ([[("cell", 0.5), ("cell", 0.75)], []], 0.0),
        ([[("cell", 0.75), ("cell", 0.375)], []], 0.125),
        ([[("cell", 0.75), ("dirt", 0.5)], []], None),
        ([[("cell", 0.75)], []], None),
        ([[("cell", 0.75), ("cell", 0.5)], [("cell", 0.06)]], None),
    ],
)
def test_answers_of_two_gpus_are_compared(others: list[list[tuple[str, float]]], by: float | None) -> None:
    alone = [[("cell", 0.75), ("cell", 0.5)], []]
    first, second = (
        [{"labels": [label for label, _ in one], "scores": [score for _, score in one]} for one in answers]
        for answers in (alone, others)
    )
    assert served.furthest(first, second) == by


class Service(BaseHTTPRequestHandler):
    """Answers a photograph with one score, which grows by what its `by` says from the second time on."""

    protocol_version = "HTTP/1.1"
    by: ClassVar[Mapping[bytes, float]] = {}
    asked: ClassVar[set[bytes]] = set()

    def do_POST(self) -> None:
        photograph = self.rfile.read(int(self.headers["Content-Length"]))
        score = 0.5 + (self.by[photograph] if photograph in self.asked else 0)
        self.asked.add(photograph)
        content = json.dumps({"labels": ["cell"], "scores": [score]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_answers_that_change_under_load_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CONNECTIONS", 4)
    monkeypatch.setattr(Service, "by", {b"one": 0.0, b"two": 0.0005, b"three": 0.002})
    Service.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        assert served.unchanged(address, [b"one", b"two", b"three"], 0.1) == 2
        server.shutdown()
    assert not Served("cuda", 9.0, 400.0, 0.1, 4, photographs=3, unchanged=2).good
    assert Served("cuda", 9.0, 400.0, 0.1, 4, photographs=3, unchanged=3).good
    assert not Served("cuda", 9.0, 0.0, None, 4, photographs=3, unchanged=3).good


def test_what_is_wanted_stands_beside_what_was_found() -> None:
    of_contenders = {ENGINE: 400.0, OVER_EAGER: 6.0, OVER_ONNX: 2.5, SHARE: 0.1}
    compared = {"comparisons": [{"details": {"findings": {"reached": of_contenders}}}]}
    services = {"cuda f16": {"images_per_second": 340}}
    done = {"contenders": Done(0, 1.0, "", compared), "service": Done(0, 1.0, "", services)}
    assert everything.summary(done) == {**of_contenders, SHARE: 0.85}
    said = lines_of_step("contenders", Done(0, 1.0, "images/s at batch   8\nCUDA graph half  400", compared))
    assert said == ["contenders   good            1.0 s", "    images/s at batch   8", "    CUDA graph half  400"]
    assert everything.summary({"contenders": done["contenders"]}) == {ENGINE: 400.0, OVER_EAGER: 6.0, OVER_ONNX: 2.5}
    for nothing in ({}, {"comparisons": []}, {"comparisons": [{"details": {}}]}, None):
        assert everything.summary({**done, "contenders": Done(1, 1.0, "", nothing)}) == {}
    assert everything.summary({}) == {}


def test_one_gpu_or_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert several.main(["--json", str(tmp_path / "several.json")]) == 0
    told = json.loads((tmp_path / "several.json").read_text())
    assert told == {"several GPUs": {"skipped": "torch sees 1, and this needs two"}}
