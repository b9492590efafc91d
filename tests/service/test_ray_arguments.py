"""What `predict-many --ray` and Ray Serve are told wrongly is said before anything starts: there is no cluster here."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from service.predict_many.command_line import read_arguments
from service.settings.settings import InvalidSettingsError
from tests.service.client.loopback import Reply, loopback
from tests.service.harness import encode, picture
from tests.service.predict_many.running import predict
from tests.service.ray_nodes import import_ray

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: .venv/bin/pip install '.[ray]'")


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_ray()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "one.png").write_bytes(encode(picture()))
    return folder


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
    from service.predict_many.cluster import elsewhere

    (tmp_path / "a.toml").write_text("max_pixels = 12345\n")
    monkeypatch.chdir(repository.parent)
    words = ["x", "--output", "y", "--models", repository.name, "--config", str(tmp_path / "a.toml")]
    settings = read_arguments(words).settings
    there = pickle.loads(pickle.dumps(elsewhere(settings)))
    assert (there.max_pixels, there.models, there.engine_threads) == (12345, repository, "auto")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": 9000}, r"port: connections are Ray Serve's"),
        ({"processes": 2}, r"processes: these are Ray Serve's replicas, see num_replicas"),
        ({"modles": "/models"}, r"unknown setting modles; did you mean models\?"),
        ({"max_queue_size": "many"}, r"--max-queue-size many: should be a valid integer"),
    ],
)
def test_wrong_arguments_are_told_before_a_replica_starts(arguments: dict[str, Any], said: str) -> None:
    from service.ray_app import build

    with pytest.raises(InvalidSettingsError, match=said):
        build(arguments)


def test_the_models_may_lie_where_the_replicas_are_alone() -> None:
    from service.ray_app import build

    build({"models": "/nowhere/models", "versions": "nuclei:1", "per_model": {"nuclei": {"max_batch_size": 2}}})
