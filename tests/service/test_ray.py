"""`predict-many --ray` and the service on Ray Serve, on a real cluster of two nodes.

While `cluster` is there the process is in a network of its own: no test here may use the session's server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.client import Client
from service.predict_many.worker import Worker
from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server, encode, picture, publish_probe, until
from tests.service.holding import FOLDER, HOLD, PASS
from tests.service.loopback_only import loopback_only
from tests.service.predict_many.running import ENGINE, content, predict
from tests.service.ray_nodes import free_port, import_ray, patiently, with_ports
from tests.service.ray_workers import HoldingWorker, OfAnEngineOfItsOwn, OfTheSecondRun, WithoutModels

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: .venv/bin/pip install '.[ray]'")

SHARD = 2
HELD = """
from service.predict_many import cluster
from service.predict_many.__main__ import main
from tests.service.ray_workers import HoldingWorker
cluster.Worker = HoldingWorker
raise SystemExit(main())
"""


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_ray()


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("holding")


@pytest.fixture(scope="module")
def cluster(holding: Path) -> Iterator[Cluster]:
    """Two nodes of one CPU each, whose processes know of `holding`."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment, loopback_only():
        environment.setenv(FOLDER, str(holding))
        environment.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home folder
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_metrics_report_interval_ms", "1000")
        environment.setenv("RAY_worker_niceness", "0")  # 15 unless told: beside busy cores they would begin in minutes
        environment.setenv("RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING", "0")  # or one node would answer nearly all
        environment.setattr(services, "get_node", patiently(services.get_node))
        environment.setattr(services, "start_raylet", with_ports(services.start_raylet))
        node = {"num_cpus": 1, "object_store_memory": 80 * 1024**2, "node_ip_address": "127.0.0.1"}
        # Neither are logs brought together, nor are nodes started by demand: that would be two more processes.
        without = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        started = Cluster(initialize_head=True, head_node_args={**node, **without})
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


def named(holding: Path, kind: str) -> set[int]:
    """The processes that have begun."""
    return {int(file.name.partition("-")[2]) for file in holding.glob(f"{kind}-*")}


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

    try:
        until(some_are_there)
    finally:  # or its workers would keep both nodes from all tests after this one
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    for worker in named(holding, HoldingWorker.kind):  # Ray lets them end, and that waits for what is held
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    kept = {name: (found / "_parts" / name).stat().st_mtime_ns for name in parts(found)}
    assert len(kept) < 12

    def kill_one() -> None:
        """One is enough: on the other node a worker of the run that was killed may be at work for long."""
        try:
            until(lambda: bool(named(holding, OfTheSecondRun.kind)))
            os.kill(max(named(holding, OfTheSecondRun.kind)), signal.SIGKILL)
        finally:
            (holding / HOLD).unlink()

    killer = threading.Thread(target=kill_one)
    killer.start()
    monkeypatch.setattr("service.predict_many.cluster.Worker", OfTheSecondRun)
    assert predict(repository, images, "--output", found, "--ray", cluster.address) == 1
    killer.join()
    assert content(found) == content(plain)
    assert kept.items() <= {name: (found / "_parts" / name).stat().st_mtime_ns for name in parts(found)}.items()


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
    monkeypatch.setattr("service.predict_many.cluster.Worker", worker)
    assert predict(repository, images, "--output", tmp_path, "--ray", cluster.address) == 2
    assert [line for line in capfd.readouterr().err.splitlines() if re.fullmatch(f"maskserve: {said}", line)]
    assert not parts(tmp_path)


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository for the test of versions to change."""
    return Path(shutil.copytree(repository, tmp_path_factory.mktemp("own") / "models"))


@pytest.fixture(scope="module")
def settings(models: Path) -> dict[str, Any]:
    # Images are held until Serve has given some to both replicas, which takes as long as it takes.
    patient = {"engine_stall_ms": 0, "timeout_ms": PATIENCE * 1000}
    return {"models": str(models), "max_body_bytes": 200_000, "max_queue_size": 32, "poll_interval_ms": 300, **patient}


@pytest.fixture(scope="module")
def serving(cluster: Cluster, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a replica on each node."""
    port = free_port()
    deployment = {
        "name": "maskserve",
        "num_replicas": 2,
        "health_check_period_s": 1,
        "ray_actor_options": {"num_cpus": 1},
    }
    application = {
        "name": "maskserve",
        "import_path": "tests.service.ray_replicas:build",
        "args": settings,
        "deployments": [deployment],
    }
    config = tmp_path_factory.mktemp("serve") / "config.yaml"
    http = {"host": "127.0.0.1", "port": port}
    config.write_text(json.dumps({"http_options": http, "proxy_location": "HeadOnly", "applications": [application]}))
    command = [Path(sys.executable).with_name("serve"), "run", config, "--address", cluster.address, "--non-blocking"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    url = f"http://127.0.0.1:{port}"
    # `serve run` ends when the application is deployed, which may be before Serve's proxy listens.
    until(lambda: bool(page(f"{url}/readyz")), 2 * PATIENCE)
    return url


def page(url: str) -> str:
    """What it says; nothing while nobody listens there yet, or not to that."""
    try:
        response = httpx.get(url, timeout=PATIENCE)
    except httpx.TransportError:
        return ""
    return response.text if response.is_success else ""


@pytest.fixture(scope="module")
def plain(settings: dict[str, Any]) -> Iterator[Server]:
    """A server without Ray, in the same network."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "models"]
    server = Server.start(settings["models"], *flags, "--engine-threads", "1", "--host", "0.0.0.0")
    server.client.base_url = server.url.replace("0.0.0.0", "127.0.0.1")
    yield server
    server.close()


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        pytest.param("POST", "/predict", encode(picture(1)), {}, id="a prediction"),
        pytest.param(
            "POST", "/predict?masks=polygon&score_threshold=0.1", encode(picture(2, (90, 64))), {}, id="polygons"
        ),
        pytest.param("POST", "/predict?tile=100&overlap=20", encode(picture(3, (150, 190))), {}, id="in tiles"),
        pytest.param("POST", "/predict", encode(picture(4)), {"Accept": "image/png"}, id="drawn"),
        pytest.param("POST", "/predict", b"no image", {}, id="no image"),
        pytest.param("POST", "/predict", bytes(300_000), {}, id="too large"),
        pytest.param("POST", "/predict?score_threshold=2", encode(picture(1)), {}, id="a wrong parameter"),
        pytest.param("POST", "/predict?model=other", encode(picture(1)), {}, id="another model"),
        pytest.param("GET", "/nowhere", b"", {}, id="no such path"),
        pytest.param("GET", "/readyz", b"", {}, id="ready"),
        pytest.param("POST", "/models/probe/reload", b"", {}, id="administration without a key"),
    ],
)
def test_answers_are_those_of_the_plain_service(
    method: str, path: str, content: bytes, headers: dict[str, str], serving: str, plain: Server
) -> None:
    sent = {"Content-Type": "image/png", **headers}
    ours, theirs = (
        httpx.request(method, url + path, content=content, headers=sent, timeout=PATIENCE)
        for url in (serving, str(plain.client.base_url).rstrip("/"))
    )
    assert ours.status_code == theirs.status_code
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    if "json" not in ours.headers["content-type"]:
        assert ours.content == theirs.content
        return
    said = [answer.json() for answer in (ours, theirs)]
    for one in said:
        for name in ("timing_ms", "request_id", "instance"):
            one.pop(name, None)
    assert said[0] == said[1]


def test_every_request_is_answered_though_a_replica_is_killed(serving: str, plain: Server, holding: Path) -> None:
    """Both are at work when one of them goes."""
    data = encode(picture(5, held=True))
    expected = plain.predict(data).json()
    before, asked = waiting(holding), list[Future[bytes]]()
    (holding / HOLD).touch()
    with ThreadPoolExecutor(30) as pool, Client(serving, timeout=PATIENCE) as client:

        def both_are_at_work() -> bool:
            if len(asked) < 30:  # Serve may not know of the second when the first is asked
                asked.append(pool.submit(client.predict_json, data))
            return len(waiting(holding) - before) >= 2

        until(both_are_at_work)
        os.kill(max(named(holding, "replica")), signal.SIGKILL)
        (holding / HOLD).unlink()
        answers = [json.loads(one.result()) for one in asked]
    assert [answer["boxes"] for answer in answers] == [expected["boxes"]] * len(asked)
    assert [answer["masks"] for answer in answers] == [expected["masks"]] * len(asked)


def rays_metrics(cluster: Cluster) -> str:
    """Of every node."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    return "".join(page(f"http://127.0.0.1:{node.metrics_export_port}/metrics") for node in nodes)


def test_gauges_reach_rays_metrics(serving: str, cluster: Cluster) -> None:
    def are_there() -> bool:
        told = rays_metrics(cluster)
        return all(name in told for name in ("ray_maskserve_requests_in_flight", "ray_maskserve_model_info"))

    until(are_there)


def test_each_replica_comes_to_a_new_version_by_itself(serving: str, models: Path, tmp_path: Path) -> None:
    publish_probe(tmp_path / "staging", models)
    data = encode(picture(6))
    with Client(serving, timeout=PATIENCE) as client:
        until(lambda: {json.loads(client.predict_json(data))["model"]["version"] for _ in range(12)} == {2})


def test_a_version_that_is_served_no_more_is_told_to_ray(
    serving: str, cluster: Cluster, models: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # as many as are kept
        publish_probe(tmp_path / "staging", models)

    def is_told() -> bool:
        lines = rays_metrics(cluster).splitlines()
        of_first = [line for line in lines if "ray_maskserve_model_info{" in line and 'version="1"' in line]
        return bool(of_first) and {float(line.rpartition(" ")[2]) for line in of_first} == {0.0}

    until(is_told)
