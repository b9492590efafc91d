"""The Open Inference Protocol's model repository through Triton's client: loading and unloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.service.harness import Server, publish_probe, until
from tests.service.routes.v2.triton_client import (
    PNG,
    connect,
    image_input,
)

NEVER = ("--poll-interval-ms", "0")


def publish_two(folder: Path) -> Path:
    """A repository with the models `one` and `two`."""
    for name in ("one", "two"):
        publish_probe(folder / "staging", folder / "models", name)
    return folder / "models"


@pytest.fixture
def two_server(tmp_path: Path, start_server: Callable[..., Server]) -> Server:
    """A server with the models `one` and `two`, which looks for new ones when told to."""
    return start_server("--models", str(publish_two(tmp_path)), "--model", "one", *NEVER)


@pytest.fixture
def two_models(two_server: Server, tmp_path: Path) -> Iterator[tuple[triton.InferenceServerClient, Path]]:
    """A client of that server, and its models' folder."""
    with connect(two_server) as client:
        yield client, tmp_path / "models"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Such a server for tests of what changes nothing."""
    models = publish_two(tmp_path_factory.mktemp("untouched"))
    server = Server.start(models, "--engine-threads", "1", "--model", "one", *NEVER)
    yield server
    server.close()


def serving_versions(folder: Path, count: int, *flags: str) -> Iterator[Server]:
    """A server of the model `one` with so many versions; each test brings them back that it unloads."""
    for _ in range(count):
        publish_probe(folder / "staging", folder / "models", "one")
    server = Server.start(folder / "models", "--engine-threads", "1", *NEVER, *flags)
    yield server
    server.close()


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All are kept."""
    yield from serving_versions(tmp_path_factory.mktemp("three"), 3, "--keep-versions", "3")


@pytest.fixture(scope="module")
def four_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two are kept."""
    yield from serving_versions(tmp_path_factory.mktemp("four"), 4, "--keep-versions", "2")


def served(server: Server) -> list[str]:
    return [one["version"] for one in server.client.post("/v2/repository/index").json() if one["state"] == "READY"]


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
    assert states(client) == ["one/1 READY", "two/1 UNAVAILABLE"]
    assert client.get_model_repository_index()[1]["reason"].startswith("it was unloaded")
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
    client.load_model("one")
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


def test_a_load_that_loaded_something_is_no_conflict(
    two_models: tuple[triton.InferenceServerClient, Path], tmp_path: Path
) -> None:
    client, models = two_models
    for _ in range(2):
        publish_probe(tmp_path / "staging", models, "one")
    (models / "one" / "3" / "model.onnx").write_bytes(b"")
    client.load_model("one")  # 3 is refused, 2 is new
    assert states(client) == ["one/3 UNAVAILABLE", "one/2 READY", "one/1 READY", "two/1 READY"]
    assert answering(client, "one") == "2"
    with pytest.raises(InferenceServerException, match="one/3 is refused"):
        client.load_model("one")  # nothing but that one would be new


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"version": "2"}, id="a string"),
        pytest.param({"version": 2}, id="a number"),
        pytest.param({"parameters": {"version": "2", "unload_dependents": False}}, id="among Triton's parameters"),
        pytest.param({"version": 2, "parameters": {"version": "2"}}, id="twice the same"),
    ],
)
def test_one_version_is_unloaded_and_loaded(three_versions: Server, body: dict[str, object]) -> None:
    server = three_versions

    def post(verb: str) -> int:
        heeded = body
        if verb == "load":  # which takes nothing that it does not heed
            heeded = {"parameters": {"version": "2"}} if "version" not in body else body
        return server.client.post(f"/v2/repository/models/one/{verb}", json=heeded).status_code

    until(lambda: served(server) == ["3", "2", "1"])
    assert post("unload") == 200
    assert served(server) == ["3", "1"]
    assert post("unload") == 404, "it is not there any more"
    assert server.client.post("/models/one/unpin").status_code == 200
    assert served(server) == ["3", "1"], "looking again does not bring it back"
    assert post("load") == 200
    assert served(server) == ["3", "2", "1"]
    server.client.post("/v2/repository/models/one/unload")
    assert served(server) == []
    assert post("load") == 200
    assert served(server) == ["2"], "only the one that was named"
    assert server.client.post("/v2/repository/models/one/load").status_code == 200
    assert served(server) == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("unloaded", "after"),
    [
        pytest.param([4], ["3", "2"], id="the newest: the one before it comes"),
        pytest.param([4, 3, 2], ["1"], id="one after the other"),
        pytest.param([3], ["4"], id="an older one: its room stays free"),
        pytest.param([3, 4], ["2", "1"], id="an older one, then the newest"),
        pytest.param([4, 3, 2, 1], [], id="all"),
    ],
)
def test_after_an_unload_the_newest_that_is_left_answers(
    four_versions: Server, unloaded: list[int], after: list[str]
) -> None:
    server = four_versions
    server.client.post("/v2/repository/models/one/load").raise_for_status()  # what the test before unloaded
    until(lambda: served(server) == ["4", "3"])
    for version in unloaded:
        server.client.post("/v2/repository/models/one/unload", json={"version": version}).raise_for_status()
    assert served(server) == after
    server.client.post("/models/one/unpin")  # looks again
    assert served(server) == after


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"config": '{"max_batch_size": 4}'}, "parameters.config: it is not permitted", id="a config"),
        pytest.param(
            {"config": "{}", "files": {"file:1/model.onnx": b"abc"}}, "parameters.file:1/model.onnx", id="files"
        ),
    ],
)
def test_what_only_triton_loads_is_refused(untouched: Server, options: dict[str, Any], said: str) -> None:
    with connect(untouched) as client, pytest.raises(InferenceServerException, match=said) as caught:
        client.load_model("one", **options)
    assert caught.value.status() == "422"


def test_the_index_lists_what_is_ready_if_nothing_else_is_wanted(
    two_models: tuple[triton.InferenceServerClient, Path], two_server: Server
) -> None:
    client, _ = two_models
    client.unload_model("two")

    def listed(body: bytes) -> list[str]:
        return [one["name"] for one in two_server.client.post("/v2/repository/index", content=body).json()]

    assert listed(b'{"ready": true}') == ["one"]
    for body in (b"", b"{}", b'{"ready": false}'):
        assert listed(body) == ["one", "two"]
    assert two_server.client.post("/v2/repository/index", content=b'{"ready": 1}').status_code == 422


def test_statistics_begin_anew_with_what_is_loaded_again(
    two_models: tuple[triton.InferenceServerClient, Path],
) -> None:
    client, _ = two_models

    def count(name: str) -> int:
        (statistics,) = client.get_inference_statistics(name)["model_stats"]
        number: int = statistics["inference_count"]
        return number

    for name in ("one", "two"):
        answering(client, name)
        assert count(name) == 1
    client.unload_model("two")
    client.load_model("two")
    assert (count("one"), count("two")) == (1, 0)


def test_a_misspelled_version_is_not_loaded(untouched: Server) -> None:
    for body in ({"Version": 1}, {"parameters": {"versions": 1}}):
        assert untouched.client.post("/v2/repository/models/one/load", json=body).status_code == 422


def test_a_version_is_unloaded_while_the_repository_cannot_be_read(
    two_models: tuple[triton.InferenceServerClient, Path], two_server: Server
) -> None:
    client, models = two_models
    models.rename(models.with_name("away"))
    assert two_server.client.post("/v2/repository/models/two/unload", json={"version": 1}).status_code == 200
    assert states(client) == ["one/1 READY", "two/1 UNAVAILABLE"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        pytest.param(b'{"versions": 1}', 422, "versions: it is not permitted", id="a misspelled name"),
        pytest.param(b'{"parameters": {"vers": 1}}', 422, "parameters.vers", id="a misspelled parameter"),
        pytest.param(b'{"version": "newest"}', 422, "version: should be a valid integer", id="no number"),
        pytest.param(b'{"version": true}', 422, "version: should be a valid integer", id="true is no number"),
        pytest.param(b'{"version": 1, "parameters": {"version": 2}}', 422, "name one", id="two numbers"),
        pytest.param(b'{"version": 7}', 404, "no model one/7", id="a version that is not served"),
        pytest.param(b"[1]", 422, "the body", id="no object"),
        pytest.param(b"version=1", 400, "no JSON", id="no JSON"),
    ],
)
def test_an_unload_that_is_not_understood_takes_nothing_down(
    untouched: Server, body: bytes, status: int, said: str
) -> None:
    refused = untouched.client.post("/v2/repository/models/one/unload", content=body)
    assert (refused.status_code, said in refused.json()["detail"]) == (status, True), refused.text
    with connect(untouched) as client:
        assert answering(client, "one") == "1"
