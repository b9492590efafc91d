"""`predict-many --ray` on a real cluster of two nodes.

While `cluster` is there the process is in a network of its own: no test here may use the session's server."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.service.client.loopback import Reply, loopback
from tests.service.harness import ROOT, encode, picture, until
from tests.service.holding import FOLDER, HOLD, PASS, install
from tests.service.loopback_only import loopback_only
from tests.service.predict_many.running import ENGINE, content, predict

pytest.importorskip("ray", reason="ray is not installed: .venv/bin/pip install '.[ray]'")

import ray
from ray.cluster_utils import Cluster

from service.client.command.inputs import UsageError
from service.predict_many import cluster as clusters
from service.predict_many.command_line import read_arguments
from service.predict_many.plan import Listing
from service.predict_many.sources import find
from service.predict_many.starting import Known
from service.predict_many.worker import Order, Worker

SHARD = 2
HELD = """
from service.predict_many import cluster
from service.predict_many.__main__ import main
from tests.service.test_ray import HoldingWorker
cluster.Worker = HoldingWorker
raise SystemExit(main())
"""


class HoldingWorker(Worker):
    """Says which process it is, and keeps marked images on its engine as long as a test wants."""

    async def load(self) -> Known:
        install()
        (Path(os.environ[FOLDER]) / f"worker-{os.getpid()}").touch()
        return await super().load()


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("holding")


def patiently(get_node: Callable[[str, str], dict[str, Any]]) -> Callable[[str, str], dict[str, Any]]:
    """Ray gives a node 30 seconds to start, however busy the machine is."""

    def get(address: str, node: str) -> dict[str, Any]:
        found = []

        def is_there() -> bool:
            with suppress(RuntimeError):
                found.append(get_node(address, node))
            return bool(found)

        until(is_there)
        return found[0]

    return get


@pytest.fixture(scope="module")
def cluster(holding: Path) -> Iterator[Cluster]:
    """Two nodes of one CPU each, whose processes know of `holding`."""
    with pytest.MonkeyPatch.context() as environment, loopback_only():
        environment.setenv(FOLDER, str(holding))
        environment.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home folder
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setattr(ray._private.services, "get_node", patiently(ray._private.services.get_node))
        node = {"num_cpus": 1, "object_store_memory": 80 * 1024**2, "node_ip_address": "127.0.0.1"}
        started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            started.add_node(**node)
            yield started
        finally:
            started.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images that stay on the engine until they may pass, one of them broken."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(24):
        (folder / f"{seed:02}.png").write_bytes(encode(picture(seed, held=True)))
    (folder / "17.png").write_bytes(b"broken")
    return folder


def parts(folder: Path) -> list[str]:
    return [file.name for file in (folder / "_parts").glob("part-*")]


def waiting(holding: Path) -> set[str]:
    """The runs that wait, and those that were killed meanwhile."""
    return {file.name for file in holding.glob("tmp*")}


def workers(holding: Path) -> set[int]:
    return {int(file.name.partition("-")[2]) for file in holding.glob("worker-*")}


def test_killed_and_started_again_while_a_worker_dies(
    cluster: Cluster,
    repository: Path,
    images: Path,
    holding: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bytes are those of a plain run that nothing disturbs."""
    plain, found = tmp_path / "plain", tmp_path / "found"
    assert predict(repository, images, "--output", plain, "--shard-size", SHARD) == 1

    (holding / HOLD).touch()
    words = [*ENGINE, "--models", repository, images, "--output", found, "--shard-size", SHARD]
    command = [sys.executable, "-c", HELD, *map(str, words), "--ray", cluster.address]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def some_are_there() -> bool:
        (holding / PASS).touch()
        return len(parts(found)) >= 2

    until(some_are_there)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = {name: (found / "_parts" / name).stat().st_mtime_ns for name in parts(found)}
    assert len(kept) < 12

    before = waiting(holding)

    def kill_one() -> None:
        until(lambda: len(waiting(holding) - before) == 2)
        os.kill(max(workers(holding)), signal.SIGKILL)
        (holding / HOLD).unlink()

    killer = threading.Thread(target=kill_one)
    killer.start()
    monkeypatch.setattr(clusters, "Worker", HoldingWorker)
    assert predict(repository, images, "--output", found, "--ray", cluster.address) == 1
    killer.join()
    assert content(found) == content(plain)
    assert kept.items() <= {name: (found / "_parts" / name).stat().st_mtime_ns for name in parts(found)}.items()


class WithoutModels(Worker):
    """As on a node where the folder is not."""

    def __init__(self, order: Order, cpus: int) -> None:
        settings = order.asked.settings.model_copy(update={"models": Path("/nowhere/models")})
        super().__init__(replace(order, asked=replace(order.asked, settings=settings)), cpus)


class OfAnEngineOfItsOwn(HoldingWorker):
    """As on nodes of several kinds."""

    async def load(self) -> Known:
        known = await super().load()
        model = known.plan.model.model_copy(update={"engine": f"engine-{os.getpid()}"})
        return replace(known, plan=known.plan.model_copy(update={"model": model}))


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (WithoutModels, r"node 127\.0\.0\.1: --models: .*nowhere/models.*"),
        (OfAnEngineOfItsOwn, r"--ray: the nodes differ in engine \(engine-\d+ on 127.0.0.1, engine-\d+ on .*\): .*"),
    ],
)
def test_nodes_that_have_not_the_same_are_named(
    worker: type[Worker],
    said: str,
    cluster: Cluster,
    repository: Path,
    images: Path,
    holding: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (holding / HOLD).touch()  # or one node might do it all
    monkeypatch.setattr(clusters, "Worker", worker)
    assert predict(repository, images, "--output", tmp_path, "--ray", cluster.address) == 2
    assert [line for line in capfd.readouterr().err.splitlines() if re.fullmatch(f"maskserve: {said}", line)]
    assert not parts(tmp_path)


def test_images_that_a_node_does_not_see_are_no_unreadable_files(repository: Path, images: Path) -> None:
    """They would be rows with an error, and kept."""
    asked = read_arguments([str(images), "--output", "anywhere", "--models", str(repository)])
    order = Order(asked, Listing.of(find([str(images)], None)), [Path("/nowhere/a.png")], False, False)
    with pytest.raises(UsageError, match=r"has no /nowhere/a\.png: images must be on all nodes"):
        asyncio.run(Worker(order, 1).load())


@pytest.mark.parametrize("address", ["images", "ray://head:10001", "http://head:8265", "head:port", "head"])
def test_what_is_no_address_is_told(
    address: str, repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(repository, images, "--output", tmp_path, "--ray", address) == 2
    assert f"--ray {address}: an address is HOST:PORT" in capsys.readouterr().err


def test_an_address_that_nobody_answers_is_told(
    repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(repository, images, "--output", tmp_path, "--ray", "127.0.0.1:1") == 2
    assert capsys.readouterr().err == "maskserve: --ray 127.0.0.1:1 cannot be reached: connection refused\n"


def test_a_port_of_something_else_is_told(
    repository: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray itself would wait for minutes."""
    with loopback([Reply()]) as server:
        address = server.url.removeprefix("http://")
        assert predict(repository, images, "--output", tmp_path, "--ray", address) == 2
    assert f"--ray {address}: that is no head of a cluster" in capsys.readouterr().err


def test_settings_of_a_file_reach_the_nodes(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of a class that only this process knows, and a relative path means something else there."""
    (tmp_path / "a.toml").write_text("max_pixels = 12345\n")
    monkeypatch.chdir(repository.parent)
    words = ["x", "--output", "y", "--models", repository.name, "--config", str(tmp_path / "a.toml")]
    settings = read_arguments(words).settings
    there = pickle.loads(pickle.dumps(clusters.elsewhere(settings)))
    assert (there.max_pixels, there.models, there.engine_threads) == (12345, repository, "auto")
