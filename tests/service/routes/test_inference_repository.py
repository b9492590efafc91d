"""The Open Inference Protocol's model repository through Triton's client: loading and unloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.service.harness import Server, publish_probe
from tests.service.routes.triton_client import (
    PNG,
    connect,
    image_input,
)


@pytest.fixture
def two_models(
    tmp_path: Path, start_server: Callable[..., Server]
) -> Iterator[tuple[triton.InferenceServerClient, Path]]:
    """A client of a server with the models `one` and `two`, which looks for new ones when told to, and their folder."""
    models = tmp_path / "models"
    for name in ("one", "two"):
        publish_probe(tmp_path / "staging", models, name)
    server = start_server("--models", str(models), "--model", "one", "--poll-interval-ms", "0")
    with connect(server) as client:
        yield client, models


def answering(client: triton.InferenceServerClient, name: str) -> str:
    """The version of the model that answers."""
    version: str = client.infer(name, [image_input(PNG)]).get_response()["model_version"]
    return version


def states(client: triton.InferenceServerClient) -> list[str]:
    return [f"{one['name']}/{one['version']} {one['state']}" for one in client.get_model_repository_index()]


def test_a_model_is_unloaded_and_loaded_while_the_other_answers(
    two_models: tuple[triton.InferenceServerClient, Path],
) -> None:
    client, _ = two_models
    client.unload_model("two")
    with pytest.raises(InferenceServerException, match=r"no model two; this server has one/1\.") as caught:
        answering(client, "two")
    assert caught.value.status() == "404"
    assert not client.is_model_ready("two")
    assert states(client) == ["one/1 READY"]
    assert answering(client, "one") == "1"
    client.load_model("two")
    assert client.is_model_ready("two")
    assert states(client) == ["one/1 READY", "two/1 READY"]
    assert answering(client, "two") == "1"


def test_the_last_model_can_be_unloaded_and_comes_back(two_models: tuple[triton.InferenceServerClient, Path]) -> None:
    client, _ = two_models
    for name in ("one", "two"):
        client.unload_model(name)
    assert client.is_server_live()
    assert not client.is_server_ready()
    with pytest.raises(InferenceServerException, match="No model is loaded") as caught:
        answering(client, "one")
    assert caught.value.status() == "503"
    client.load_model("one", config="{}")  # a configuration for Triton is not read
    assert client.is_server_ready()
    assert answering(client, "one") == "1"


def test_a_broken_version_is_refused_with_its_reason_and_the_old_one_answers(
    two_models: tuple[triton.InferenceServerClient, Path], tmp_path: Path
) -> None:
    client, models = two_models
    publish_probe(tmp_path / "staging", models, "one")
    network = models / "one" / "2" / "model.onnx"
    good = network.read_bytes()
    network.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InferenceServerException, match=r"one/2 is refused: .*model\.onnx") as caught:
        client.load_model("one")
    assert caught.value.status() == "409"
    assert answering(client, "one") == "1"
    assert states(client) == ["one/2 UNAVAILABLE", "one/1 READY", "two/1 READY"]
    reason = client.get_model_repository_index()[0]["reason"]
    assert reason in caught.value.message()
    with pytest.raises(InferenceServerException, match=r"no model one/2 \(.*model\.onnx") as refused:
        client.infer("one", [image_input(PNG)], model_version="2")
    assert refused.value.status() == "404"
    network.write_bytes(good)
    client.load_model("one")
    assert answering(client, "one") == "2"
    assert client.get_model_metadata("one")["versions"] == ["2", "1"]
