"""With trusted keys a server serves what they signed, and nothing else, from its start to its last reload."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model.runtime.bundles.publishing import sign
from model.runtime.bundles.signatures import SIGNATURE
from model.runtime.bundles.signing import public_key
from service.models.loading import RefusedError, load_first
from service.settings.settings import EMBEDDED_MODELS, Settings
from tests.service.harness import Server, encode, picture, publish_probe

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three versions of the probe with INT8 beside: one signed, one by another key, one not."""
    for key in (KEY, OTHER, None):
        bundle = publish_probe(tmp_path / "staging", tmp_path / "models", int8_ap=0.5)
        if key is not None:
            sign(bundle, key)
    return tmp_path / "models"


def trusting(repository: Path, **settings: Any) -> Settings:
    return Settings(models=repository, trusted_keys=(public_key(KEY),), device="cpu", **settings)


def test_a_start_serves_the_newest_that_is_signed_and_says_why_no_newer_one(repository: Path) -> None:
    catalog = load_first(trusting(repository, model_aliases={"plain": "probe:3", "best": "probe:1"}))
    assert [str(model) for model in catalog.served] == ["probe/1"]
    assert f"signed by the key {public_key(OTHER)}" in catalog.refused["probe", 2]
    assert "is not signed" in catalog.refused["probe", 3]
    assert str(catalog.find("best")) == "probe/1"
    catalog.close()


@pytest.mark.parametrize("below", ["probe/3", "probe/2"], ids=["one bundle, unsigned", "one bundle, another's"])
def test_a_start_without_anything_signed_is_refused(below: str, repository: Path) -> None:
    with pytest.raises(RefusedError, match=r"probe.* is (not signed|signed by the key)"):
        load_first(trusting(repository / below))


def test_a_pinned_version_is_not_served_for_being_pinned(repository: Path) -> None:
    with pytest.raises(RefusedError, match="is not signed"):
        load_first(trusting(repository, versions={"probe": 3}))


def test_int8_is_signed_as_all_files_are(repository: Path) -> None:
    network = repository / "probe" / "1" / "model.int8.onnx"
    network.write_bytes(network.read_bytes() + b"\x08\x08")
    with pytest.raises(RefusedError, match=r"model\.int8\.onnx has \d+ bytes and was published with"):
        load_first(trusting(repository, versions={"probe": 1}))


def test_the_embedded_model_is_nobodys_before_it_is_signed() -> None:
    with pytest.raises(RefusedError, match=r"nuclei/1 is not signed .*maskserve publish .*nuclei/1 --sign KEY"):
        load_first(trusting(EMBEDDED_MODELS))


def test_a_running_server_takes_a_version_when_it_is_signed(
    repository: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server("--models", str(repository), "--trusted-keys", public_key(KEY), "--poll-interval-ms", "0")

    def states() -> dict[int, str]:
        listed = server.client.get("/models/probe").json()["versions"]
        return {one["version"]: one["state"] for one in listed}

    assert server.client.post("/models/probe/reload").status_code == 409
    assert server.client.post("/models/probe/versions/3/promote").status_code == 409
    assert states() == {3: "refused", 2: "refused", 1: "served"}
    shutil.copy(repository / "probe" / "1" / SIGNATURE, repository / "probe" / "3")
    refused = server.client.post("/models/probe/reload").json()
    assert "does not fit" in refused["detail"]
    sign(publish_probe(repository.parent / "staging", repository, int8_ap=0.5), KEY)
    assert server.client.post("/models/probe/reload").status_code == 200
    assert states() == {4: "served", 3: "refused", 2: "refused", 1: "served"}
    assert server.predict(encode(picture(1))).json()["model"]["version"] == 4
