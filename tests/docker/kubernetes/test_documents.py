"""What docs/kubernetes.md prints can be done as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.docker.kubernetes.manifests import FOLDERS, build, name_of, needs_kubectl, of_kind
from tests.docker.kubernetes.schemas import errors
from tests.service.harness import ROOT

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def test_every_folder_has_its_command_and_every_command_its_folder() -> None:
    assert set(re.findall(r"kubectl apply -k docker/kubernetes/(\S+)", PAGE)) == set(FOLDERS)
    for file in re.findall(r"`((?:base|components|overlays)/[\w./-]+)`", PAGE):
        assert (ROOT / "docker" / "kubernetes" / file).exists(), file


@needs_kubectl
def test_a_kustomization_of_ones_own_takes_what_it_needs(tmp_path: Path) -> None:
    """The page's: a GPU for each pod, and as many pods as Prometheus says."""
    for name in ("kubernetes", "monitoring"):
        shutil.copytree(ROOT / "docker" / name, tmp_path / "maskserve" / "docker" / name)
    (text,) = re.findall(r"```yaml\n(# mine/kustomization.yaml.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(text)
    documents = build(str(tmp_path / "mine"))
    assert [error for one in documents for error in errors(one)] == []
    names = [name_of(one) for one in documents]
    assert len(set(names)) == len(names)
    assert {"ScaledObject/maskserve", "ServiceMonitor/maskserve", "PodDisruptionBudget/maskserve"} <= set(names)
    assert {document["metadata"]["namespace"] for document in documents} == {"vision"}
    (deployment,) = of_kind(documents, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/vision/maskserve:cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "replicas" not in deployment["spec"]
    (settings,) = (one for one in of_kind(documents, "ConfigMap") if "settings" in one["metadata"]["name"])
    assert settings["data"].items() >= {
        ("MASKSERVE_MAX_QUEUE_SIZE", "32"),
        ("MASKSERVE_MODEL", "nuclei"),
        ("MASKSERVE_DEVICE", "cuda"),
    }
