"""Two processes behind one port answer as one does."""

from __future__ import annotations

import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE
from tests.service.group.members import clients, pids, process_of
from tests.service.harness import HELD, Server, encode, launch, picture, publish_probe, until
from tests.service.holding import HOLD, PASS

QUICK = encode(picture(1))
TWO = ("--processes", "2", "--engine-threads", "1", "--max-batch-size", "1", "--poll-interval-ms", "0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the repository, to which tests publish."""
    folder: Path = tmp_path_factory.mktemp("group") / "models"
    shutil.copytree(repository, folder)
    return folder


@pytest.fixture(scope="module")
def group(models: Path) -> Iterator[Server]:
    server = Server.start(models, *TWO)
    yield server
    server.close()


def predict(client: httpx.Client, data: bytes = QUICK, **parameters: Any) -> httpx.Response:
    return client.post("/predict", content=data, headers={"Content-Type": "image/png"}, params=parameters)


def test_it_says_once_that_it_is_ready_and_on_what(group: Server) -> None:
    loading, *kernels, ready = group.errors
    assert loading == "maskserve: loading probe/1\n"
    assert len(kernels) <= 1
    assert "(onnx, f32, 2 processes on auto, auto, " in ready.replace("cpu", "auto")


def test_every_connection_gets_the_answers_of_one_process_and_all_are_counted(group: Server, server: Server) -> None:
    """`server` is alone, and of the same model."""
    images = [encode(picture(seed, (64 + seed, 80))) for seed in range(8)]
    expected = [server.predict(image).json() for image in images]
    before = Counter(group.metrics())
    answered_before = _answered_images(group)

    def ask(connection: int) -> list[tuple[str, dict[str, Any]]]:
        with group.another_client() as client:
            answers = [predict(client, image) for image in images]
        return [(answer.headers["x-request-id"], answer.json()) for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        answered = list(pool.map(ask, range(8)))
    for answers in answered:
        for (_, found), wanted in zip(answers, expected, strict=True):
            assert {**found, "timing_ms": 0} == {**wanted, "timing_ms": 0}
    grown = Counter(group.metrics())
    grown.subtract(before)
    assert grown['maskserve_requests_total{route="/predict",status="200"}'] == 64
    assert grown['maskserve_request_seconds_count{route="/predict",status="200"}'] == 64
    assert grown['maskserve_request_seconds_bucket{le="+Inf",route="/predict",status="200"}'] == 64
    assert grown['maskserve_model_requests_total{model="probe",status="200",version="1"}'] == 64
    assert grown["maskserve_batch_size_sum"] == 64
    assert grown['maskserve_scored_images_total{model="probe"}'] == 64
    assert grown["maskserve_requests_in_flight"] == 0
    assert _answered_images(group) - answered_before == 64
    busy = {name for name in grown if name.startswith("maskserve_engine_busy_seconds_total")}
    assert busy == {f'maskserve_engine_busy_seconds_total{{device="{name}"}}' for name in ("cpu", "cpu#1")}
    assert {process_of(group, answers[0][0]) for answers in answered} == {0, 1}


def _answered_images(group: Server) -> int:
    """By Triton's statistics, whichever process is asked."""
    counts = set()
    with clients(group) as members:
        for (client,) in members:
            (version,) = client.get("/v2/models/probe/stats").json()["model_stats"]
            counts.add((version["inference_count"], version["inference_stats"]["success"]["count"]))
    ((images, requests),) = counts
    assert images == requests
    return int(images)


def test_both_processes_are_in_the_sums_of_the_moment(group: Server) -> None:
    with clients(group, each=2) as members, ThreadPoolExecutor(2) as pool:
        (group.holding / HOLD).touch()
        try:
            held = [pool.submit(predict, own[0], HELD) for own in members]
            until(lambda: group.metrics()["maskserve_requests_in_flight"] == 2)
            for own in members:  # whoever answers
                late = predict(own[1], timeout_ms=50)
                assert (late.status_code, late.json()["type"]) == (504, "urn:maskserve:problem:deadline-passed")
                assert own[1].get("/readyz").status_code == 200
        finally:
            (group.holding / HOLD).unlink()
        assert [one.result().status_code for one in held] == [200, 200]


def test_interactive_work_goes_before_bulk_in_each_process(group: Server) -> None:
    with clients(group, each=3) as members, ThreadPoolExecutor(3) as pool:
        for own in members:
            (group.holding / HOLD).touch()
            try:
                first = pool.submit(predict, own[0], HELD)
                until(lambda: group.metrics()["maskserve_requests_in_flight"] == 1)
                waiting = []
                for client, priority in zip(own[1:], ("bulk", "interactive"), strict=False):
                    waiting.append(pool.submit(predict, client, HELD, priority=priority))
                    queued = f'maskserve_queue_depth{{model="probe",priority="{priority}"}}'
                    until(lambda queued=queued: group.metrics()[queued] == 1)
                bulk, interactive = waiting
                for image in (first, interactive):
                    (group.holding / PASS).touch()
                    assert image.result().status_code == 200
                assert not bulk.done()
            finally:
                (group.holding / HOLD).unlink()
            assert bulk.result().status_code == 200


def test_what_changes_the_models_changes_them_in_every_process(group: Server, models: Path, tmp_path: Path) -> None:
    with clients(group) as ((first,), (second,)):

        def served() -> list[list[int]]:
            return [
                [one["version"] for one in client.get("/models/probe").json()["versions"] if one["state"] == "served"]
                for client in (first, second)
            ]

        def answering() -> list[int]:
            return [predict(client).json()["model"]["version"] for client in (first, second)]

        publish_probe(tmp_path / "staging", models)
        assert answering() == [1, 1]
        assert first.post("/models/probe/reload").status_code == 200
        assert (served(), answering()) == ([[2, 1], [2, 1]], [2, 2])

        assert second.post("/models/probe/versions/1/promote").status_code == 200
        assert answering() == [1, 1]
        assert first.post("/v2/repository/models/probe/unload", json={"version": 1}).status_code == 409
        assert first.post("/models/probe/unpin").status_code == 200
        assert answering() == [2, 2]

        assert second.post("/v2/repository/models/probe/unload", json={"version": 2}).status_code == 200
        assert (served(), answering()) == ([[1], [1]], [1, 1])
        assert first.post("/v2/repository/models/probe/load", json={"version": 2}).status_code == 200
        assert answering() == [2, 2]

        damaged = publish_probe(tmp_path / "staging", models).path / "model.onnx"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        refused = second.post("/models/probe/reload")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:maskserve:problem:model-refused")
        assert answering() == [2, 2]
        shutil.rmtree(damaged.parent)

        missing = first.post("/models/nothing/reload")
        assert (missing.status_code, missing.json()["type"]) == (404, "urn:maskserve:problem:no-such-model")


def test_where_another_process_cannot_the_answer_says_which(group: Server, models: Path, tmp_path: Path) -> None:
    """It has no file left to open."""
    version = publish_probe(tmp_path / "staging", models).manifest.version
    other = pids(group)[1]
    with clients(group) as ((first,), (second,)):
        before = resource.prlimit(
            other, resource.RLIMIT_NOFILE, (4, resource.prlimit(other, resource.RLIMIT_NOFILE)[1])
        )
        try:
            refused = first.post("/models/probe/reload")
        finally:
            resource.prlimit(other, resource.RLIMIT_NOFILE, before)
        assert refused.status_code in (409, 503)
        assert refused.json()["detail"].startswith("Process 1 cannot do what the others have done; ask again. ")
        assert first.post("/models/probe/reload").status_code == 200
        assert [predict(client).json()["model"]["version"] for client in (first, second)] == [version, version]


def test_a_taken_port_is_one_line(group: Server, repository: Path) -> None:
    port = group.url.rsplit(":", 1)[1]
    process = launch("--models", str(repository), "--processes", "2", "--port", port)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors.count("\n")) == (2, 1), errors
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in errors


def test_a_model_that_is_refused_ends_all_with_one_line(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    for network in (tmp_path / "models").glob("probe/*/model.onnx"):
        network.write_bytes(network.read_bytes()[:-1])
    process = launch("--models", str(tmp_path / "models"), "--processes", "2")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    *loading, reason = errors.splitlines()
    assert all(line.startswith("maskserve: loading ") for line in loading)
    assert "model.onnx" in reason


def test_members_end_with_their_parent(group: Server) -> None:
    """The last one: nothing is left of the group."""
    members = pids(group)
    assert len(members) == 2
    with clients(group) as ((first,), _):
        assert predict(first).status_code == 200
        group.process.send_signal(signal.SIGKILL)
        group.process.wait(PATIENCE)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members))
