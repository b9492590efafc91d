"""One model's folder, or one bundle, served as it is: what KServe mounts at /mnt/models, under a name of KServe's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.harness import Server, encode, ended, picture, publish_probe
from tests.service.routes.v2.triton_client import PNG, connect, image_input

QUICK = encode(picture(1))
FLAGS = ("--poll-interval-ms", "0", "--model-aliases", "finder=*")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two versions of the probe."""
    for _ in range(2):
        publish_probe(tmp_path / "staging", tmp_path / "models")
    return tmp_path / "models"


def versions(server: Server) -> dict[int, str]:
    """What became of each, after a look at the folder."""
    assert server.client.post("/models/probe/reload").status_code in (200, 409)
    return {one["version"]: one["state"] for one in server.client.get("/models/probe").json()["versions"]}


def answering(server: Server) -> str:
    """Whose answer it is, asked for by the name that KServe has."""
    model = server.predict(QUICK, model="finder").json()["model"]
    return f"{model['name']}/{model['version']}"


def test_one_models_folder_is_served_and_new_versions_appear_in_it(
    repository: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    mounted = tmp_path / "mnt"
    shutil.copytree(repository / "probe" / "1", mounted / "1")
    server = start_server("--models", str(mounted), *FLAGS)
    assert answering(server) == "probe/1"
    shutil.copytree(repository / "probe" / "2", mounted / "2")
    assert versions(server) == {2: "served", 1: "served"}
    assert answering(server) == "probe/2"
    shutil.copytree(publish_probe(tmp_path / "staging", repository, "other").path, mounted / "3")
    assert versions(server) == {3: "refused", 2: "served", 1: "served"}, "another model's"
    assert answering(server) == "probe/2"
    shutil.rmtree(mounted / "3")
    shutil.rmtree(mounted / "1")
    assert versions(server) == {2: "served", 1: "retired"}


def test_one_bundle_is_served_and_no_version_beside_it(
    repository: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    mounted = tmp_path / "mnt"
    mounted.symlink_to(repository / "probe" / "1")
    server = start_server("--models", str(mounted), *FLAGS)
    assert answering(server) == "probe/1"
    assert versions(server) == {1: "served"}
    mounted.unlink()
    mounted.symlink_to(repository / "probe" / "2")
    assert versions(server) == {2: "served", 1: "retired"}, "another bundle took its place"
    assert answering(server) == "probe/2"
    mounted.unlink()
    unreadable = server.client.post("/models/probe/reload")
    assert (unreadable.status_code, "what is served stays" in unreadable.json()["detail"]) == (503, True)
    mounted.mkdir()
    (mounted / "manifest.json").write_text("{")
    assert server.client.post("/models/probe/reload").status_code == 503, "one that is being written, perhaps"
    assert answering(server) == "probe/2"


def test_an_alias_of_the_default_model_is_a_name_everywhere_and_answers_name_the_model(
    repository: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server("--models", str(repository), *FLAGS)
    with connect(server) as client:
        assert client.is_model_ready("finder")
        assert client.get_model_metadata("finder")["name"] == "finder"
        assert client.infer("finder", [image_input(PNG)]).get_response()["model_version"] == "2"
    assert server.client.get("/models/finder").json()["name"] == "probe"
    assert server.client.get("/models").json()["aliases"] == {"finder": "probe"}
    assert answering(server) == "probe/2"
    assert not [name for name in server.metrics() if "finder" in name]
    publish_probe(tmp_path / "staging", repository, "finder")
    assert server.client.post("/models/finder/reload").status_code == 409
    (refused,) = server.client.get("/models").json()["refused"]["finder"]
    assert "its name is an alias" in refused["reason"]
    assert answering(server) == "probe/2", "no model takes the name over"


@pytest.mark.parametrize(
    ("manifest", "code", "said"),
    [
        pytest.param("{", 1, "manifest.json is no JSON", id="a broken manifest"),
        pytest.param(None, 2, "holds no bundle", id="nothing"),
    ],
)
def test_a_folder_that_nothing_names_is_one_line(tmp_path: Path, manifest: str | None, code: int, said: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    done = ended("--port", "0", "--models", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n"), said in done.stderr) == (code, 1, True), done.stderr


def test_a_models_own_name_for_it_is_no_alias(repository: Path) -> None:
    """An InferenceService may have its model's name."""
    done = ended("--models", str(repository), "--model-aliases", "probe=*,cells=probe", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'model_aliases = {"probe" = "*", "cells" = "probe"}' in done.stdout
