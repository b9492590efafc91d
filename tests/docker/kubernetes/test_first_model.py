"""The script of the first pod, run as it is by a real shell: a volume without models begins with the image's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from model.runtime.bundles.repository import EMBEDDED, Repository
from tests.docker.kubernetes.manifests import KUBERNETES, build, find, needs_kubectl, pods
from tests.patience import PATIENCE


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """As a disk comes, with a folder of its file system."""
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    return tmp_path / "volume"


def start(volume: Path, image: Path) -> subprocess.Popen[str]:
    script = (KUBERNETES / "models" / "first-model.sh").read_text()
    script = script.replace("/volume/", f"{volume}/").replace("/models/", f"{image}/")
    return subprocess.Popen(["sh", "-euc", script], stderr=subprocess.PIPE, text=True)


@needs_kubectl
@pytest.mark.parametrize(("folder", "owner"), [("base", "Deployment"), ("overlays/kserve", "Job")])
def test_the_script_is_run_where_it_is_mounted(folder: str, owner: str) -> None:
    documents = build(folder)
    (pod,) = (pod for pod in pods(documents) if pod.owner.startswith(f"{owner}/"))
    first = next(container for container in pod.all_containers if container["name"] == "first-model")
    mounts = {mount["mountPath"]: mount["name"] for mount in first["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    *shell, script = first["command"]
    assert shell == ["sh", "-eu"]
    folder, _, file = script.rpartition("/")
    assert set(mounts) == {"/volume", folder}
    config = find(documents, "ConfigMap", volumes[mounts[folder]]["configMap"]["name"])
    assert config is not None
    assert config["data"] == {file: (KUBERNETES / "models" / file).read_text()}


def test_pods_that_start_at_once_leave_one_whole_model(volume: Path) -> None:
    processes = [start(volume, EMBEDDED) for _ in range(4)]
    for process in processes:
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        process.stderr.close()
    found = Repository(volume)
    assert found.models() == Repository(EMBEDDED).models()
    assert found.latest("nuclei").manifest == Repository(EMBEDDED).latest("nuclei").manifest
    assert {entry.name for entry in volume.iterdir()} == {"lost+found", "nuclei"}
    assert (volume / "nuclei").stat().st_mode & 0o777 == 0o755, "others read it too"


def test_a_volume_with_a_model_stays_as_it_is(volume: Path) -> None:
    shutil.copytree(EMBEDDED / "nuclei", volume / "cells")
    before = sorted(volume.rglob("*"))
    _, errors = start(volume, EMBEDDED).communicate(timeout=PATIENCE)
    assert (sorted(volume.rglob("*")), errors) == (before, "")
