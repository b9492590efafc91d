"""Which version answers can be pinned, so that a worse new one is rolled back while requests come in."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.settings.settings import Settings
from tests.service.harness import Server, encode, ended, picture, publish_probe, until

QUICK = encode(picture(1))
NEVER = ("--poll-interval-ms", "0")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two versions of the probe."""
    for _ in range(2):
        publish_probe(tmp_path / "staging", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def start(repository: Path, start_server: Callable[..., Server]) -> Callable[..., Server]:
    return lambda *flags: start_server("--models", str(repository), *flags)


def answering(server: Server) -> int:
    version: int = server.predict(QUICK).json()["model"]["version"]
    return version


def post(server: Server, path: str, status: int = 200) -> dict[str, Any]:
    answer = server.client.post(f"/models/probe/{path}")
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def states(server: Server) -> dict[int, str]:
    return {one["version"]: one["state"] for one in server.client.get("/models/probe").json()["versions"]}


def test_version_2_is_promoted_and_version_1_pinned_back_under_load_without_a_failed_request(
    start: Callable[..., Server],
) -> None:
    server = start(*NEVER, "--versions", "probe:1", "--max-batch-size", "4")
    assert answering(server) == 1
    stop = threading.Event()
    versions: list[int] = []

    def client(seed: int) -> None:
        while not stop.is_set():
            answer = server.predict(encode(picture(seed)))
            assert answer.status_code == 200, answer.text
            versions.append(answer.json()["model"]["version"])

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, seed) for seed in range(4)]
        try:
            for version in (2, 1, 2, 1):
                details = post(server, f"versions/{version}/promote")
                assert (details["version"], details["pinned"]) == (version, version)
                assert answering(server) == version, "from the answer on, it is the one"
                before = len(versions)
                until(lambda: len(versions) >= before + 12 or any(one.done() for one in clients))  # noqa: B023  # called now
                late = [one for one in versions[before:] if one != version]
                assert len(late) <= len(clients), "but for what each client had on its way"
        finally:
            stop.set()
        for one in clients:
            one.result()
    metrics = server.metrics()
    assert metrics['maskserve_model_pinned{name="probe",version="1"}'] == 1
    assert metrics['maskserve_model_pinned{name="probe",version="2"}'] == 0
    assert (
        metrics[
            'maskserve_model_info{device="cpu",engine="onnx",name="probe",newest="true",precision="f32",version="1"}'
        ]
        == 1
    )
    assert not [name for name in metrics if name.startswith("maskserve_dropped_total")]


def test_a_pin_keeps_newer_versions_from_taking_over_until_it_is_lifted(
    start: Callable[..., Server], repository: Path, tmp_path: Path
) -> None:
    server = start(*NEVER, "--keep-versions", "1")
    until(lambda: states(server) == {2: "served", 1: "retired"})  # a moment after it is ready
    assert post(server, "versions/1/promote")["version"] == 1, "a retired one is loaded for it"
    publish_probe(tmp_path / "staging", repository)
    details = post(server, "reload")
    assert (details["version"], details["pinned"]) == (1, 1)
    assert states(server) == {3: "served", 2: "retired", 1: "served"}
    assert server.predict(QUICK, version=3).json()["model"]["version"] == 3
    assert answering(server) == 1
    assert [one["version"] for one in server.client.get("/models").json()["models"]] == [1]
    details = post(server, "unpin")
    assert (details["version"], details["pinned"]) == (3, None)
    assert states(server) == {3: "served", 2: "retired", 1: "retired"}
    assert post(server, "unpin")["version"] == 3, "asked twice, it is as it was"


def test_what_cannot_be_promoted_changes_nothing(start: Callable[..., Server], repository: Path) -> None:
    server = start(*NEVER, "--keep-versions", "1")
    (repository / "probe" / "1" / "model.onnx").write_bytes(b"")
    assert "model.onnx" in post(server, "versions/1/promote", 409)["detail"]
    assert "of probe it has 1, 2" in post(server, "versions/7/promote", 404)["detail"]
    assert server.client.post("/models/other/versions/1/promote").status_code == 404
    assert server.client.post("/models/other/unpin").status_code == 404
    assert server.client.post("/models/probe/versions/0/promote").status_code == 422
    assert (answering(server), server.client.get("/models/probe").json()["pinned"]) == (2, None)


def test_a_pinned_version_outlives_its_folder_but_not_its_models(
    start: Callable[..., Server], repository: Path
) -> None:
    server = start(*NEVER)
    post(server, "versions/1/promote")
    shutil.rmtree(repository / "probe" / "1")
    versions = {one["version"]: one for one in post(server, "reload")["versions"]}
    assert versions[1]["state"] == "served"
    assert "it stays because it is pinned" in versions[1]["reason"]
    assert answering(server) == 1
    post(server, "unpin")
    assert states(server) == {2: "served", 1: "retired"}
    post(server, "versions/2/promote")
    shutil.rmtree(repository / "probe")
    post(server, "reload", 404)
    assert server.predict(QUICK).status_code == 503


def test_a_pinned_version_is_not_unloaded(start: Callable[..., Server]) -> None:
    server = start(*NEVER)
    post(server, "versions/1/promote")
    unload = "/v2/repository/models/probe/unload"
    refused = server.client.post(unload, json={"version": 1})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:maskserve:problem:version-pinned")
    assert server.client.post(unload, json={"version": 2}).status_code == 200
    assert states(server) == {2: "retired", 1: "served"}


def test_without_the_pin_the_newest_answers_that_is_not_unloaded_however_many_are_kept(
    start: Callable[..., Server], repository: Path, tmp_path: Path
) -> None:
    server = start(*NEVER, "--keep-versions", "1", "--model-aliases", "best=probe:1")
    post(server, "versions/2/promote")
    for _ in range(2):
        publish_probe(tmp_path / "staging", repository)
    post(server, "reload")
    for version in (4, 3):
        server.client.post("/v2/repository/models/probe/unload", json={"version": version}).raise_for_status()
    assert post(server, "unpin")["version"] == 2
    assert states(server) == {4: "retired", 3: "retired", 2: "served", 1: "served"}
    assert answering(server) == 2


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        pytest.param("probe:7", "has no probe/7; of probe it has 1, 2", id="no such version"),
        pytest.param("other:1", "has no other; it has probe", id="no such model"),
        pytest.param("probe", "should be as in nuclei:1,shapes:3", id="no version"),
        pytest.param("probe:1,probe:2", "with one version of each model", id="two versions"),
        pytest.param("probe:0", "greater than or equal to 1", id="versions begin at 1"),
    ],
)
def test_a_pin_to_what_is_not_there_stops_the_start(repository: Path, versions: str, said: str) -> None:
    done = ended("--port", "0", "--models", str(repository), "--versions", versions)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--versions" in done.stderr
    assert said in done.stderr


def test_a_pin_to_a_broken_version_stops_the_start(repository: Path) -> None:
    (repository / "probe" / "1" / "model.onnx").write_bytes(b"")
    done = ended("--port", "0", "--models", str(repository), "--versions", "probe:1")
    assert done.returncode == 1
    assert "model.onnx" in done.stderr


def test_pins_in_each_form() -> None:
    pins = {"nuclei": 1, "shapes": 3}
    assert Settings(versions="nuclei:1, shapes:3").versions == pins  # type: ignore[arg-type]  # as the environment has it
    assert Settings(versions=pins).versions == pins
