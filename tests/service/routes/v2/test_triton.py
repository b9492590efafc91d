"""What Triton's client asks for besides inference: configuration, statistics; and names that a deployment gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.service.harness import Server, encode, ended, picture, publish_probe
from tests.service.routes.v2.triton_client import PNG, connect, image_input


@pytest.fixture
def server(tmp_path: Path, start_server: Callable[..., Server]) -> Server:
    """Two versions of the probe, of which both stay loaded, and aliases."""
    for _ in range(2):
        publish_probe(tmp_path / "staging", tmp_path / "models")
    flags = ("--keep-versions", "1", "--poll-interval-ms", "0", "--max-batch-size", "4")
    return start_server("--models", str(tmp_path / "models"), "--model-aliases", "best=probe,old=probe:1", *flags)


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with connect(server) as client:
        yield client


def two_images() -> triton.InferInput:
    tensor = triton.InferInput("IMAGE", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([PNG, encode(picture(2))], np.object_))
    return tensor


def only(statistics: dict[str, Any]) -> dict[str, Any]:
    (one,) = statistics["model_stats"]
    assert isinstance(one, dict)
    return one


def test_the_configuration_is_that_of_the_tensors(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("probe")
    metadata = client.get_model_metadata("probe")
    types = {"TYPE_STRING": "BYTES", "TYPE_FP32": "FP32", "TYPE_INT64": "INT64"}
    for kind in ("input", "output"):
        tensors = [(one["name"], types[one["data_type"]], one["dims"]) for one in config[kind]]
        assert tensors == [(one["name"], one["datatype"], one["shape"]) for one in metadata[f"{kind}s"]]
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("probe", "onnx_onnxv1", 0)
    assert config["instance_group"] == [{"name": "probe_0", "kind": "KIND_CPU", "count": 1, "gpus": []}]
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert client.get_model_config("old", "1")["name"] == "old"
    assert {"model_configuration", "statistics"} <= set(client.get_server_metadata()["extensions"])


def test_statistics_count_what_happened(client: triton.InferenceServerClient, server: Server) -> None:
    before = only(client.get_inference_statistics("probe", "2"))
    assert (before["inference_count"], before["execution_count"], before["last_inference"]) == (0, 0, 0)
    client.infer("probe", [image_input(PNG)])
    client.infer("probe", [two_images()])
    server.predict(b"no image")
    server.predict(PNG, version=1)
    after = only(client.get_inference_statistics("probe", "2"))
    assert after["inference_count"] == 3
    assert after["execution_count"] == sum(one["compute_infer"]["count"] for one in after["batch_stats"]) >= 2
    assert sum(one["batch_size"] * one["compute_infer"]["count"] for one in after["batch_stats"]) == 3
    stats = after["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 1)
    assert [stats[one]["count"] for one in ("queue", "compute_input", "compute_infer", "compute_output")] == [3] * 4
    assert stats["success"]["ns"] > stats["compute_infer"]["ns"] / 2 > 0
    assert after["last_inference"] > 1_700_000_000_000
    everything = client.get_inference_statistics()["model_stats"]
    assert [(one["name"], one["version"], one["inference_count"]) for one in everything] == [
        ("probe", "2", 3),
        ("probe", "1", 1),
    ]
    assert client.get_inference_statistics("probe")["model_stats"] == everything
    assert server.client.get("/v2/models/nothing/stats").status_code == 404
    assert server.client.get("/v2/models/nothing/config").status_code == 404
    assert server.client.get("/v2/models/probe/versions/9/stats").status_code == 404


def test_an_alias_is_a_name_of_a_model_or_of_a_version(client: triton.InferenceServerClient, server: Server) -> None:
    assert server.predict(PNG, model="best").json()["model"] == {"name": "probe", "version": 2, "precision": "f32"}
    assert server.predict(PNG, model="best", version=1).json()["model"] == {
        "name": "probe",
        "version": 1,
        "precision": "f32",
    }
    assert server.predict(PNG, model="old").json()["model"] == {"name": "probe", "version": 1, "precision": "f32"}
    conflict = server.predict(PNG, model="old", version=2)
    assert (conflict.status_code, "ask probe for version 2" in conflict.json()["detail"]) == (404, True)
    assert client.infer("old", [image_input(PNG)]).get_response()["model_version"] == "1"
    assert client.is_model_ready("best")
    assert client.get_model_metadata("old")["name"] == "old"
    assert only(client.get_inference_statistics("old"))["name"] == "old", "clients look for the name that they asked"
    assert server.client.get("/models").json()["aliases"] == {"best": "probe", "old": "probe:1"}
    assert server.client.post("/models/probe/versions/1/promote").status_code == 200
    assert server.predict(PNG, model="best").json()["model"]["version"] == 1, "it follows the model"
    server.client.post("/models/probe/unpin")
    assert server.predict(PNG, model="old").json()["model"]["version"] == 1, "kept for its alias"


def test_a_version_with_an_alias_is_not_unloaded_and_an_alias_is_none_to_administer(server: Server) -> None:
    def unload(name: str, version: int) -> int:
        return server.client.post(f"/v2/repository/models/{name}/unload", json={"version": version}).status_code

    assert unload("probe", 1) == 409
    assert unload("old", 1) == 404
    assert server.client.post("/models/best/reload").status_code == 404
    assert server.predict(PNG, model="old").status_code == 200


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        pytest.param("best=other", "has no other; it has probe", id="no such model"),
        pytest.param("best=probe:3", "has no probe/3; of probe it has 1", id="no such version"),
        pytest.param("probe=probe:1", "has a model probe; choose another name", id="a model's own name"),
        pytest.param("best", "should be as in best=nuclei:1", id="no target"),
        pytest.param("best=probe:x", "best=probe:x: should be a name", id="no version"),
        pytest.param("best=*:1", "best=*:1: should be a name", id="a version of the default"),
        pytest.param("a/b=probe", "a/b=probe: should be a name", id="no name"),
    ],
)
def test_an_alias_of_what_is_not_there_stops_the_start(repository: Path, aliases: str, said: str) -> None:
    done = ended("--port", "0", "--models", str(repository), "--model-aliases", aliases)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--model-aliases" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("bad", "status", "kind"),
    [
        pytest.param(b"no image", 400, "not-an-image", id="no image"),
        pytest.param(PNG[: len(PNG) // 2], 400, "damaged-image", id="cut short"),
    ],
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_bad_image_of_several_is_named(bad: bytes, status: int, kind: str, index: int, plain: Server) -> None:
    images = [PNG] * 3
    images[index] = bad
    answer = infer(plain, images)
    assert answer.status_code == status
    problem = answer.json()
    assert (problem["type"], problem["image_index"]) == (f"urn:maskserve:problem:{kind}", index)
    assert problem["error"].startswith(f"Image {index} of 3, counted from 0: ")
    alone = infer(plain, [bad]).json()
    assert "image_index" not in alone
    assert problem["detail"].endswith(alone["detail"])


@pytest.fixture(scope="module")
def plain(repository: Path) -> Iterator[Server]:
    server = Server.start(repository, "--engine-threads", "1")
    yield server
    server.close()


def infer(server: Server, images: list[bytes]) -> Any:
    data = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    head = b'{"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[%d],"parameters":{"binary_data_size":%d}}]}' % (
        len(images),
        len(data),
    )
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return server.client.post("/v2/models/probe/infer", content=head + data, headers=headers)
