"""New versions under a running server: they take over without a failed request, or are refused and change nothing."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.http.problems import REPOSITORY_UNREADABLE, Problem
from service.models.catalog import ServedModel
from service.models.loading import load_first
from service.models.reload import Reloader
from service.settings.settings import Settings
from tests.service.harness import Server, encode, picture, publish_probe, until

QUICK = encode(picture(1))
NEVER = ("--poll-interval-ms", "0")


def labels_of(version: int) -> tuple[str, str, str]:
    """Labels that tell which version a detection came from."""
    return f"circle of {version}", f"ring of {version}", f"square of {version}"


class Models:
    """A repository of the test's own, with version 1 of the probe in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "models"
        self._folder = folder
        self.publish()

    def publish(self, name: str = "probe") -> int:
        """Another version, its number in its labels."""
        there = len(list((self.path / name).iterdir())) if (self.path / name).is_dir() else 0
        bundle = publish_probe(self._folder / "staging", self.path, name, labels_of(there + 1))
        assert bundle.manifest.version == there + 1
        return bundle.manifest.version

    def publish_broken(self, version: int) -> Path:
        """A version with a flipped byte appears, as a bad copy would; returns the file."""
        elsewhere = self._folder / "elsewhere"
        for _ in range(version):
            bundle = publish_probe(self._folder / "staging", elsewhere, "probe", labels_of(version))
        network = bundle.path / "model.onnx"
        data = bytearray(network.read_bytes())
        data[len(data) // 2] ^= 1
        network.write_bytes(data)
        hidden = self.path / ".copying"
        shutil.copytree(bundle.path, hidden)
        hidden.rename(self.path / "probe" / str(version))
        return self.path / "probe" / str(version) / "model.onnx"


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


@pytest.fixture
def start(models: Models, start_server: Callable[..., Server]) -> Callable[..., Server]:
    return lambda *flags: start_server("--models", str(models.path), *flags)


def reload(server: Server, name: str = "probe") -> dict[str, Any]:
    response = server.client.post(f"/models/{name}/reload")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def states(server: Server, name: str = "probe") -> dict[int, str]:
    return {one["version"]: one["state"] for one in server.client.get(f"/models/{name}").json()["versions"]}


def test_twenty_reloads_under_load_fail_no_request_and_never_mix_versions(
    models: Models, start: Callable[..., Server]
) -> None:
    server = start(*NEVER, "--max-batch-size", "4", "--max-queue-size", "64")
    stop = threading.Event()

    def client(seed: int) -> list[int]:
        """Ask without a pause; the versions that answered."""
        versions: list[int] = []
        images = [encode(picture(seed + number)) for number in range(7)]
        while not stop.is_set():
            answer = server.predict(images[len(versions) % 7])
            assert answer.status_code == 200, answer.text
            found = answer.json()
            version = found["model"]["version"]
            assert set(found["labels"]) <= set(labels_of(version))
            versions.append(version)
        return versions

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, 10 * number) for number in range(4)]
        try:
            for expected in range(2, 22):
                models.publish()
                assert reload(server)["version"] == expected
        finally:
            stop.set()
        answered = [one.result() for one in clients]
    for versions in answered:
        assert versions == sorted(versions), "a client was answered by an older version after a newer one"
    assert sum(map(len, answered)) > 60
    assert len({version for versions in answered for version in versions}) > 10
    assert states(server) == {21: "served", 20: "served"} | dict.fromkeys(range(1, 20), "retired")
    metrics = server.metrics()
    assert metrics['maskserve_requests_total{route="/predict",status="200"}'] == sum(map(len, answered))
    assert metrics['maskserve_model_loads_total{model="probe",result="served"}'] == 20
    assert not [name for name in metrics if name.startswith("maskserve_dropped_total")]


def test_a_version_with_a_flipped_byte_is_refused_and_the_old_one_stays(
    models: Models, start: Callable[..., Server]
) -> None:
    server = start(*NEVER)
    network = models.publish_broken(2)
    refused = server.client.post("/models/probe/reload")
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:maskserve:problem:model-refused"
    assert str(network) in refused.json()["detail"]
    assert states(server) == {2: "refused", 1: "served"}
    assert "SHA-256" in server.client.get("/models/probe").json()["versions"][0]["reason"]
    assert server.predict(QUICK).json()["model"]["version"] == 1
    gone = server.predict(QUICK, version=2)
    assert gone.status_code == 404
    assert "SHA-256" in gone.json()["detail"]
    assert server.client.get("/readyz").status_code == 200
    assert server.metrics()['maskserve_model_loads_total{model="probe",result="refused"}'] == 1

    data = bytearray(network.read_bytes())  # the copy is repaired
    data[len(data) // 2] ^= 1
    network.write_bytes(data)
    assert reload(server)["version"] == 2
    assert server.predict(QUICK).json()["model"]["version"] == 2


def test_polling_finds_new_versions_and_tries_a_broken_one_again_only_when_it_has_changed(
    models: Models, start: Callable[..., Server]
) -> None:
    server = start("--poll-interval-ms", "20")
    network = models.publish_broken(2)
    until(lambda: states(server) == {2: "refused", 1: "served"})
    looked = models.publish("other")  # by the time that this one is there, the broken one was looked at again
    assert looked == 1
    until(lambda: server.client.get("/models/other").status_code == 200)
    until(lambda: server.predict(QUICK, model="other").status_code == 200)
    assert sum("is refused" in line for line in server.log) == 1
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)
    until(lambda: states(server) == {2: "served", 1: "served"})
    assert server.predict(QUICK).json()["labels"][0] in labels_of(2)


def rename_a_label(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("circle of 2", "another one"))


def flip_a_bit(folder: Path) -> None:
    network = folder / "model.onnx"
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)


def put_another_in_its_place(folder: Path) -> None:
    """A whole bundle whose files agree with its manifest."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("1"), folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))


@pytest.mark.parametrize("change", [rename_a_label, flip_a_bit, put_another_in_its_place])
def test_changed_files_of_a_served_version_are_told_and_change_nothing(
    models: Models, start: Callable[..., Server], change: Callable[[Path], None]
) -> None:
    models.publish()
    server = start(*NEVER)
    assert reload(server)["version"] == 2
    folder = models.path / "probe" / "2"
    kept = shutil.copytree(folder, models.path.parent / "kept")
    change(folder)
    for _ in range(2):
        refused = server.client.post("/models/probe/reload")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:maskserve:problem:model-refused")
        assert "probe/2 is refused: its files were changed after it was loaded" in refused.json()["detail"]
    newest, older = server.client.get("/models/probe").json()["versions"]
    assert (newest["version"], newest["state"]) == (2, "served")
    assert "publish a new version" in newest["reason"]
    assert older["reason"] == ""
    assert server.predict(QUICK).json()["labels"][0] in labels_of(2)
    assert sum("files were changed" in line for line in server.log if '"ERROR"' in line.upper()) == 1
    shutil.rmtree(folder)
    shutil.copytree(kept, folder, copy_function=shutil.copy)  # the files again, at another time
    assert reload(server)["versions"][0] == {"version": 2, "state": "served", "reason": ""}


def test_changed_files_are_found_by_polling_and_repaired_ones_are_loaded_again(
    models: Models, start: Callable[..., Server]
) -> None:
    models.publish()
    server = start("--poll-interval-ms", "20")
    until(lambda: states(server) == {2: "served", 1: "served"})
    flip_a_bit(models.path / "probe" / "1")
    until(lambda: any("probe/1: its files were changed" in line for line in server.log))
    assert reload(server)["version"] == 2, "the newest is as it was"
    flip_a_bit(models.path / "probe" / "1")
    for verb in ("unload", "load"):
        server.client.post(f"/v2/repository/models/probe/{verb}", json={"version": 1}).raise_for_status()
    assert [one["reason"] for one in server.client.get("/models/probe").json()["versions"]] == ["", ""]


def test_what_has_begun_is_answered_by_the_version_that_it_began_with(
    models: Models, start: Callable[..., Server]
) -> None:
    server = start(*NEVER, "--keep-versions", "1", "--max-batch-size", "1")
    with ThreadPoolExecutor(2) as pool:
        with server.busy() as begun:
            begun += [pool.submit(server.predict, QUICK) for _ in range(2)]
            until(lambda: server.metrics()["maskserve_requests_in_flight"] == 3)
            models.publish()
            assert reload(server)["version"] == 2
            assert states(server) == {2: "served", 1: "retired"}
        assert [one.result().json()["model"]["version"] for one in begun] == [1, 1, 1]
    assert server.predict(QUICK).json()["model"]["version"] == 2


def test_the_newest_versions_can_be_asked_for_and_older_ones_are_retired(
    models: Models, start: Callable[..., Server]
) -> None:
    for _ in range(3):
        models.publish()
    server = start(*NEVER, "--keep-versions", "3", "--per-model", '{"probe": {"keep_versions": 2}}')
    until(lambda: states(server) == {4: "served", 3: "served", 2: "retired", 1: "retired"})
    assert server.predict(QUICK).json()["model"]["version"] == 4
    assert server.predict(QUICK, version=3).json()["labels"][0] in labels_of(3)
    assert "older than the newest keep_versions" in server.predict(QUICK, version=2).json()["detail"]
    models.publish()
    reload(server)
    assert states(server) == {5: "served", 4: "served", 3: "retired", 2: "retired", 1: "retired"}
    assert server.predict(QUICK, version=3).status_code == 404


def test_a_start_with_a_broken_newest_version_serves_the_one_before(
    models: Models, start: Callable[..., Server]
) -> None:
    models.publish_broken(2)
    server = start(*NEVER)
    assert server.predict(QUICK).json()["model"]["version"] == 1
    until(lambda: states(server) == {2: "refused", 1: "served"})


def test_another_models_broken_bundle_does_not_stop_the_start(models: Models, start: Callable[..., Server]) -> None:
    models.publish("other")
    (models.path / "other" / "1" / "manifest.json").write_text("{")
    server = start(*NEVER, "--model", "probe")
    listed = server.client.get("/models").json()
    assert [model["name"] for model in listed["models"]] == ["probe"]
    assert "is no JSON" in listed["refused"]["other"][0]["reason"]


def test_a_repository_that_vanishes_takes_nothing_down(models: Models, start: Callable[..., Server]) -> None:
    server = start("--poll-interval-ms", "20")
    away = models.path.with_name("away")
    models.path.rename(away)
    until(lambda: any("cannot be read, what is served stays" in line for line in server.log))
    assert server.predict(QUICK).status_code == 200
    assert server.client.post("/models/probe/reload").json()["type"].endswith(":repository-unreadable")
    models.path.mkdir()  # a volume's mount point, while nothing is mounted there
    until(lambda: server.client.post("/models/probe/reload").status_code == 503)
    assert server.predict(QUICK).status_code == 200
    models.path.rmdir()
    away.rename(models.path)
    models.publish()
    until(lambda: states(server) == {2: "served", 1: "served"})
    assert sum("cannot be read, what is served stays" in line for line in server.log) == 1


def test_it_may_vanish_before_it_was_looked_at_again(models: Models) -> None:
    settings = Settings(models=models.path, engine_threads=1, device="cpu", engine="onnx")
    reloader = Reloader(load_first(settings), settings)
    models.path.rename(models.path.with_name("away"))
    models.path.mkdir()
    try:
        with pytest.raises(Problem) as caught:
            asyncio.run(reloader.reload("probe"))
        assert caught.value.kind == REPOSITORY_UNREADABLE
    finally:
        reloader.close()


def test_a_model_whose_folder_is_removed_is_retired_and_comes_back_with_it(
    models: Models, start: Callable[..., Server]
) -> None:
    models.publish("other")
    server = start(*NEVER, "--model", "probe")
    aside = models.path.parent / "aside"
    (models.path / "other").rename(aside)
    gone = server.client.post("/models/other/reload")
    assert gone.status_code == 404
    assert "no model other in the repository; it has probe" in gone.json()["detail"]
    assert server.predict(QUICK, model="other").status_code == 404
    listed = server.client.get("/models").json()
    assert [model["name"] for model in listed["models"]] == ["probe"]
    assert listed["refused"]["other"] == [
        {"version": 1, "state": "retired", "reason": "its folder was removed from the repository"}
    ]
    assert server.predict(QUICK).status_code == 200
    aside.rename(models.path / "other")
    assert reload(server, "other")["version"] == 1
    assert server.predict(QUICK, model="other").status_code == 200


def test_polling_sees_that_a_model_is_gone_of_which_nothing_was_served(
    models: Models, start: Callable[..., Server]
) -> None:
    for name in ("refused", "unloaded"):
        models.publish(name)
    (models.path / "refused" / "1" / "manifest.json").write_text("{")
    server = start("--model", "probe", "--poll-interval-ms", "20")
    server.client.post("/v2/repository/models/unloaded/unload").raise_for_status()

    def others() -> dict[str, list[str]]:
        listed = server.client.get("/models").json()["refused"]
        return {name: [one["reason"] for one in versions] for name, versions in listed.items()}

    assert others()["unloaded"] == ["it was unloaded; load or promote it to serve it again"]
    assert others().keys() == {"refused", "unloaded"}
    for name in ("refused", "unloaded"):
        shutil.rmtree(models.path / name)
    until(lambda: others() == {"unloaded": ["its folder was removed from the repository"]})
    models.publish("unloaded")  # another model, which nobody has unloaded
    until(lambda: server.predict(QUICK, model="unloaded").status_code == 200)


def test_a_server_without_its_default_model_is_ready_for_the_others(
    models: Models, start: Callable[..., Server]
) -> None:
    models.publish("other")
    server = start(*NEVER, "--model", "probe")
    shutil.rmtree(models.path / "probe")
    server.client.post("/models/probe/reload")
    assert server.predict(QUICK).status_code == 404
    assert server.predict(QUICK, model="other").status_code == 200
    assert server.client.get("/readyz").json()["models"] == ["other/1"]
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.client.get("/v2/models/probe/ready").status_code == 404
    server.client.post("/v2/repository/models/other/unload")
    assert [server.client.get(path).status_code for path in ("/readyz", "/v2/health/ready")] == [503, 503]


def test_the_last_models_folder_is_removed_and_nothing_is_served(models: Models, start: Callable[..., Server]) -> None:
    server = start("--poll-interval-ms", "20")
    shutil.rmtree(models.path / "probe")
    until(lambda: server.client.get("/readyz").status_code == 503)
    assert server.predict(QUICK).status_code == 503
    models.publish()
    until(lambda: server.client.get("/readyz").status_code == 200)


def test_reloading_what_is_not_there_says_what_is(models: Models, start: Callable[..., Server]) -> None:
    server = start(*NEVER)
    for name in ("nuclei", "..", "%2e%2e", "probe/1"):
        answer = server.client.post(f"/models/{name}/reload")
        assert answer.status_code in (404, 405)
    assert "it has probe" in server.client.post("/models/nuclei/reload").json()["detail"]
    assert reload(server)["versions"] == [{"version": 1, "state": "served", "reason": ""}]


def test_what_loading_and_closing_leave_free_is_given_back(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    close = ServedModel.close

    def closed(model: ServedModel) -> None:
        close(model)
        done.append("closed")

    monkeypatch.setattr(ServedModel, "close", closed)
    monkeypatch.setattr("service.models.loading.give_freed_memory_back", lambda: done.append("given back"))
    monkeypatch.setattr("service.models.reload.give_freed_memory_back", lambda: done.append("given back again"))
    settings = Settings(models=models.path, engine_threads=1, device="cpu", engine="onnx", keep_versions=1)
    reloader = Reloader(load_first(settings), settings)
    models.publish()
    try:
        asyncio.run(reloader.reload("probe"))
        until(lambda: done == ["given back", "given back", "closed", "given back again"])
    finally:
        reloader.close()
