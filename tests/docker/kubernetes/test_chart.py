"""The Helm chart: it renders what kustomize builds, for it reads the same files; and its values have their effect."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from service import VERSION
from tests.docker.kubernetes.manifests import KUBERNETES, Manifest, build, find, name_of, needs_kubectl
from tests.docker.kubernetes.schemas import errors
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="the chart needs helm")
GPU = ("--values", str(KUBERNETES / "values-gpu.yaml"))
HASHED = re.compile(r"^(maskserve-[a-z-]+)-[a-z0-9]{10}$")


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *words], capture_output=True, text=True, timeout=PATIENCE)


def render(*flags: str) -> list[Manifest]:
    done = helm("template", "maskserve", str(KUBERNETES), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def plain(value: Any) -> Any:
    """Without what tells the two ways apart: annotations, and the hash in names."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name != "annotations"}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return HASHED.sub(r"\1", value) if isinstance(value, str) else value


@needs_kubectl
@pytest.mark.parametrize(("flags", "folder"), [((), "base"), (GPU, "overlays/gpu")], ids=["base", "gpu"])
def test_it_renders_what_kustomize_builds(flags: tuple[str, ...], folder: str) -> None:
    rendered = {name_of(one): one for one in plain(render(*flags))}
    assert rendered == {name_of(one): one for one in plain(build(folder))}
    assert [error for one in render(*flags) for error in errors(one)] == []


def test_values_have_their_effect_and_leave_the_rest() -> None:
    before = render()
    after = render(
        *("--set", "image.repository=registry.example/maskserve", "--set-string", "image.tag=1", "--set", "replicas=5"),
        *("--set-string", "settings.MASKSERVE_MAX_QUEUE_SIZE=32", "--set", "resources.limits.memory=8Gi"),
        *("--set", "pod.nodeSelector.disk=fast", "--set", "claim.storageClassName=nfs"),
    )
    deployment, old = (find(one, "Deployment", "maskserve") for one in (after, before))
    assert deployment is not None
    assert old is not None
    pod, old_pod = deployment["spec"]["template"]["spec"], old["spec"]["template"]["spec"]
    assert {one["image"] for one in (*pod["initContainers"], *pod["containers"])} == {"registry.example/maskserve:1"}
    assert (deployment["spec"]["replicas"], pod["nodeSelector"]) == (5, {"disk": "fast"})
    limits = old_pod["containers"][0]["resources"]["limits"] | {"memory": "8Gi"}
    assert pod["containers"][0]["resources"]["limits"] == limits
    settings, old_settings = (find(one, "ConfigMap", "maskserve-settings") for one in (after, before))
    assert settings is not None
    assert old_settings is not None
    assert settings["data"] == old_settings["data"] | {"MASKSERVE_MAX_QUEUE_SIZE": "32"}
    checksums = [one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for one in (deployment, old)]
    assert checksums[0] != checksums[1], "the pods are replaced"
    claim = find(after, "PersistentVolumeClaim", "maskserve-models")
    assert claim is not None
    assert claim["spec"]["storageClassName"] == "nfs"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize("value", ["settings.MASKSERVE_MAX_BODY_BYTES=33554432", "image.tag=1"])
def test_what_yaml_takes_for_a_number_is_refused(value: str) -> None:
    """Of the first Helm would make 3.3554432e+07, and of a tag 1.10 it would make 1.1."""
    done = helm("template", "maskserve", str(KUBERNETES), "--set", value)
    assert done.returncode != 0
    assert f"{value.partition('=')[0]} is no string" in done.stderr


def test_it_is_the_release_s_chart() -> None:
    assert helm("lint", "--strict", str(KUBERNETES)).returncode == 0
    chart = yaml.safe_load((KUBERNETES / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
