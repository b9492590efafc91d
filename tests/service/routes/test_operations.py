"""Health, models, metrics and the documentation, at a real server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.problems import KINDS
from service.routes.schemas import Prediction
from tests.service.harness import LABELS, Server, encode, picture


def get(server: Server, path: str) -> dict[str, Any]:
    response = server.client.get(path)
    assert response.status_code == 200, response.text
    value: dict[str, Any] = response.json()
    return value


def test_health(server: Server) -> None:
    assert get(server, "/healthz")["status"] == "alive"
    assert get(server, "/readyz") == {"status": "ready", "models": ["probe/1"]}


def test_models(server: Server) -> None:
    listed = get(server, "/models")
    assert listed["default"] == "probe"
    (model,) = listed["models"]
    assert model == get(server, "/models/probe")
    assert (model["name"], model["version"], model["task"], model["channels"]) == ("probe", 1, "masks", 3)
    assert (model["engine"], model["devices"]) == ("onnx", ["cpu"])
    assert model["versions"] == [{"version": 1, "state": "served", "reason": ""}]
    assert (model["max_batch_size"], model["max_queue_size"]) == (4, 32)
    assert model["labels"] == {str(index): name for index, name in enumerate(LABELS, start=1)}
    assert model["defaults"]["score_threshold"] == 0.3
    assert model["provenance"]["license"] == "Apache-2.0"
    missing = server.client.get("/models/nuclei")
    assert missing.status_code == 404
    assert missing.json()["type"] == "urn:maskserve:problem:no-such-model"


def test_metrics_add_up_with_the_answers(server: Server) -> None:
    before = Counter(server.metrics())
    labels: Counter[str] = Counter()
    for seed in range(5):
        labels.update(server.predict(encode(picture(seed))).json()["labels"])
    for _ in range(3):
        assert server.predict(b"no image").status_code == 400
    assert server.predict(b"", masks="png").status_code == 422
    assert server.client.get("/a").status_code == server.client.get("/b").status_code == 404
    after = server.metrics()
    grown = {name: after[name] - before[name] for name in after}

    def requests(route: str, status: int) -> float:
        return grown[f'maskserve_requests_total{{route="{route}",status="{status}"}}']

    assert requests("/predict", 200) == 5
    assert requests("/predict", 400) == 3
    assert requests("/predict", 422) == 1
    assert requests("unmatched", 404) == 2
    assert grown['maskserve_request_seconds_count{route="/predict",status="200"}'] == 5
    for stage in ("decode", "queue", "inference", "postprocess"):
        assert grown[f'maskserve_stage_seconds_count{{stage="{stage}"}}'] == 5
        assert grown[f'maskserve_stage_seconds_sum{{stage="{stage}"}}'] > 0
    assert grown["maskserve_batch_size_sum"] == 5
    for label, count in labels.items():
        assert grown[f'maskserve_detections_total{{label="{label}",model="probe"}}'] == count
        assert grown[f'maskserve_detection_score_count{{label="{label}",model="probe"}}'] == count
    assert sum(v for name, v in grown.items() if name.startswith("maskserve_detections_total")) == labels.total()
    assert after["maskserve_requests_in_flight"] == after["maskserve_queue_oldest_seconds"] == 0
    for priority in ("interactive", "bulk"):
        assert after[f'maskserve_queue_depth{{model="probe",priority="{priority}"}}'] == 0
    assert (
        after['maskserve_model_info{device="cpu",engine="onnx",name="probe",newest="true",precision="f32",version="1"}']
        == 1
    )
    assert grown['maskserve_engine_busy_seconds_total{device="cpu"}'] > 0
    assert grown["maskserve_batch_fill_count"] == 5
    assert after["process_resident_memory_bytes"] > 0


def test_the_example_answer_is_a_valid_one(server: Server) -> None:
    schema = get(server, "/openapi.json")["components"]["schemas"]["Prediction"]
    Prediction.model_validate(schema["example"])
    for masks in ("rle", "rle_uncompressed", "polygon", "none"):
        Prediction.model_validate(server.predict(encode(picture()), masks=masks).json())


def test_no_two_problems_have_one_type() -> None:
    assert len({kind.type for kind in KINDS}) == len(KINDS)


def test_the_server_never_loads_torch(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("there is no /proc here to look into another process")
    loaded = maps.read_text()
    assert "onnxruntime" in loaded
    assert "libtorch" not in loaded


def test_connections_are_kept_alive_after_a_refusal(server: Server) -> None:
    with server.another_client(limits=httpx.Limits(max_connections=1)) as client:
        assert client.post("/predict", content=bytes(300_000), headers={"Content-Type": "image/png"}).status_code == 413
        assert client.get("/healthz").status_code == 200
