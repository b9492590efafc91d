"""A version that is still being copied into the repository is refused until it is whole, and then served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.harness import Server, encode, picture, publish_probe, until

PNG = encode(picture(1))


@pytest.mark.parametrize(
    "order", [("manifest.json", "model.onnx"), ("model.onnx", "manifest.json")], ids=["manifest first", "manifest last"]
)
def test_it_is_served_when_it_is_whole_and_not_before(
    order: tuple[str, str], start_server: Callable[..., Server], tmp_path: Path
) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    publish_probe(tmp_path / "staging", models)
    for _ in range(2):
        source = publish_probe(tmp_path / "staging", elsewhere, labels=("a", "b", "c")).path
    server = start_server("--models", str(models), "--poll-interval-ms", "0")

    def look() -> int:
        """Have the repository looked at; the version that answers, as what it is."""
        server.client.post("/models/probe/reload")
        answer = server.predict(PNG)
        assert answer.status_code == 200, answer.text
        version = int(answer.json()["model"]["version"])
        assert (set(answer.json()["labels"]) <= {"a", "b", "c"}) == (version == 2)
        return version

    target = models / "probe" / "2"
    target.mkdir()
    assert look() == 1
    for name in order:
        content = (source / name).read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 2):
            (target / name).write_bytes(content[:length])
            assert look() == 1, f"{length} of {len(content)} bytes of {name}"
        shutil.copy(source / name, target)
    until(lambda: look() == 2)
    assert server.client.get("/models/probe").json()["version"] == 2
