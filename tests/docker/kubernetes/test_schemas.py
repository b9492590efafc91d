"""Kubernetes, KServe, KEDA and Kubeflow's Trainer would take the manifests as they are, each field of them."""

from __future__ import annotations

import pytest

from tests.docker.kubernetes.manifests import FOLDERS, build, needs_kubectl
from tests.docker.kubernetes.planting import REMOVED, Mistake
from tests.docker.kubernetes.schemas import CRDS, errors, is_built_in

pytestmark = needs_kubectl
needs_definitions = pytest.mark.skipif(
    not CRDS.is_dir(), reason=f"needs the definitions of other projects in {CRDS.name}/"
)
KINDS = {
    "base": {"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Service"},
    "overlays/gpu": set(),
    "overlays/hpa": {"HorizontalPodAutoscaler", "PrometheusRule", "ServiceMonitor"},
    "overlays/keda": {"ScaledObject", "PrometheusRule", "ServiceMonitor"},
    "overlays/monitoring": {"PrometheusRule", "ServiceMonitor"},
    "overlays/kserve": {"ConfigMap", "InferenceService", "Job", "PersistentVolumeClaim", "ServingRuntime"},
    "overlays/training": {"ConfigMap", "PersistentVolumeClaim", "TrainJob", "TrainingRuntime"},
}
POD = "spec template spec containers 0"
BUILT_IN = [
    Mistake("base", "Deployment/maskserve", f"{POD} livenesProbe", {}, "livenesProbe"),
    Mistake("base", "Deployment/maskserve", f"{POD} ports 0 containerPort", "http", "containerPort"),
    Mistake("base", "Deployment/maskserve", "spec selector", REMOVED, "selector"),
    Mistake(
        "base", "Deployment/maskserve", "spec template spec terminationGraceSeconds", 45, "terminationGraceSeconds"
    ),
    Mistake("base", "Service/maskserve", "spec ports 0 target", "http", "target"),
    Mistake("base", "NetworkPolicy/maskserve", "spec policyType", ["Ingress"], "policyType"),
    Mistake("base", "PodDisruptionBudget/maskserve", "spec maxUnavailable", [1], "maxUnavailable"),
    Mistake("overlays/hpa", "HorizontalPodAutoscaler/maskserve", "spec minReplica", 2, "minReplica"),
    Mistake("overlays/gpu", "Deployment/maskserve", "spec template spec tolerations 0 effects", "x", "effects"),
]
CUSTOM = [
    Mistake("overlays/keda", "ScaledObject/maskserve", "spec minReplicas", 2, "minReplicas"),
    Mistake("overlays/keda", "ScaledObject/maskserve", "spec triggers 0 metadata threshold", 3, "3 is not of type"),
    Mistake("overlays/keda", "ScaledObject/maskserve", "spec fallback behavior", "last", "last"),
    Mistake("overlays/kserve", "ServingRuntime/maskserve", "spec containers 0 readinesProbe", {}, "readinesProbe"),
    Mistake("overlays/kserve", "ServingRuntime/maskserve", "spec securityContext", {}, "securityContext"),
    Mistake("overlays/kserve", "InferenceService/nuclei", "spec predictor model storageURI", "pvc://a/b", "storageURI"),
    Mistake("overlays/training", "TrainJob/maskserve-train", "spec trainer numNodes", "2", "numNodes"),
    Mistake("overlays/training", "TrainJob/maskserve-train", "spec trainer volumes", [], "volumes"),
    Mistake(
        "overlays/training", "TrainingRuntime/maskserve-train", "spec mlPolicy torch", {"numProcPerNode": 1}, "numP"
    ),
]


def test_every_folder_is_tested() -> None:
    assert set(KINDS) == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_what_is_built(folder: str) -> None:
    documents = build(folder)
    from_base = set() if folder in ("overlays/kserve", "overlays/training") else KINDS["base"]
    assert {document["kind"] for document in documents} == KINDS[folder] | from_base
    assert [error for one in documents if is_built_in(one) for error in errors(one)] == []


@needs_definitions
@pytest.mark.parametrize("folder", ["overlays/keda", "overlays/kserve", "overlays/training"])
def test_other_projects_take_what_is_built_for_them(folder: str) -> None:
    assert [error for one in build(folder) for error in errors(one)] == []


@pytest.mark.parametrize("mistake", BUILT_IN, ids=str)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert any(mistake.said in error for error in errors(mistake.planted()))


@needs_definitions
@pytest.mark.parametrize("mistake", CUSTOM, ids=str)
def test_a_mistake_in_another_projects_kind_is_found(mistake: Mistake) -> None:
    assert any(mistake.said in error for error in errors(mistake.planted()))
