"""The manifests mean what they should: what no schema can tell. Each check is shown to find a planted mistake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.kubernetes.manifests import FOLDERS, Manifest, build, needs_kubectl
from tests.docker.kubernetes.meaning import replacing, running, scaling, wiring
from tests.docker.kubernetes.meaning.known import Known, ask
from tests.docker.kubernetes.planting import REMOVED, Mistake
from tests.service.harness import Server

pytestmark = needs_kubectl


@pytest.fixture(scope="module")
def known(server: Server) -> Known:
    return ask(server)


def findings(documents: list[Manifest], known: Known) -> Iterator[str]:
    for check in (wiring.selectors, wiring.ports, wiring.references):
        yield from check(documents)
    yield from running.probes(documents, known)
    for check in (running.images, running.periods, running.settings, running.folders, running.security):
        yield from check(documents)
    for check in (running.resources, replacing.quantities, replacing.rollouts, replacing.budgets, replacing.policies):
        yield from check(documents)
    yield from scaling.queries(documents, known)
    for check in (scaling.scaling, scaling.alerts):
        yield from check(documents)


BASE, KSERVE, TRAINING = "base", "overlays/kserve", "overlays/training"
SERVE, RUNTIME, SERVICE = "Deployment/maskserve", "ServingRuntime/maskserve", "InferenceService/nuclei"
TRAIN, JOB = "TrainingRuntime/maskserve-train", "TrainJob/maskserve-train"
KEDA, HPA, RULE = "ScaledObject/maskserve", "HorizontalPodAutoscaler/maskserve", "PrometheusRule/maskserve"
POD, LABEL = "spec template spec", "app.kubernetes.io/name"
ONE, NODES = f"{POD} containers 0", "spec template spec replicatedJobs 0 template spec template spec"
WIRING = [
    Mistake(BASE, "Service/maskserve", f"spec selector {LABEL}", "mask", "selects nothing"),
    Mistake(BASE, "Service/maskserve", "spec selector", {}, "selects nothing"),
    Mistake(BASE, "PodDisruptionBudget/maskserve", f"spec selector matchLabels {LABEL}", "x", "selects nothing"),
    Mistake(BASE, "NetworkPolicy/maskserve", f"spec podSelector matchLabels {LABEL}", "x", "selects nothing"),
    Mistake(BASE, SERVE, f"spec template metadata labels {LABEL}", "x", "selects nothing"),
    Mistake(BASE, SERVE, f"{POD} topologySpreadConstraints 0 labelSelector matchLabels {LABEL}", "x", "its spread"),
    Mistake("overlays/monitoring", "ServiceMonitor/maskserve", f"spec selector matchLabels {LABEL}", "x", "nothing"),
    Mistake(BASE, "Service/maskserve", "spec ports 0 targetPort", "web", "has no port web"),
    Mistake(BASE, "Service/maskserve", "spec ports 0 targetPort", 80, "has no port 80"),
    Mistake(BASE, "NetworkPolicy/maskserve", "spec ingress 0 ports 0 port", 80, "has no port 80"),
    Mistake(BASE, SERVE, f"{ONE} ports 0 containerPort", 8080, "listens on port 8000, which it does not have"),
    Mistake(BASE, SERVE, f"{ONE} readinessProbe httpGet port", 8001, "a probe asks port 8001"),
    Mistake("overlays/monitoring", "ServiceMonitor/maskserve", "spec endpoints 0 port", "metrics", "a port metrics"),
    Mistake(KSERVE, RUNTIME, "spec annotations prometheus.kserve.io/port", "8000", "sent to port 8000"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 args 0", "--port=8000", "listens on port 8000"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 name", "maskserve", "called kserve-container"),
    Mistake(KSERVE, SERVICE, "spec predictor model runtime", "mask", "no ServingRuntime mask"),
    Mistake(KSERVE, SERVICE, "spec predictor model modelFormat name", "onnx", "not {'name': 'onnx'"),
    Mistake(KSERVE, SERVICE, "spec predictor model protocolVersion", "v1", "not v1"),
    Mistake(
        KSERVE, SERVICE, "spec predictor model storageUri", "pvc://models/nuclei", "no PersistentVolumeClaim models"
    ),
    Mistake(
        BASE, SERVE, f"{POD} volumes 0 persistentVolumeClaim claimName", "models", "no PersistentVolumeClaim models"
    ),
    Mistake(BASE, SERVE, f"{POD} volumes 1 configMap name", "first", "no ConfigMap first"),
    Mistake(BASE, SERVE, f"{ONE} volumeMounts 1 name", "temp", "there is no volume temp"),
    Mistake(BASE, SERVE, f"{ONE} envFrom 0 configMapRef name", "settings", "no ConfigMap settings"),
    Mistake(BASE, SERVE, f"{ONE} envFrom 1 secretRef optional", False, "no Secret maskserve-keys"),
    Mistake("overlays/keda", KEDA, "spec scaleTargetRef name", "serve", "no Deployment serve"),
    Mistake("overlays/hpa", HPA, "spec scaleTargetRef kind", "StatefulSet", "no StatefulSet maskserve"),
    Mistake(TRAINING, JOB, "spec runtimeRef kind", "ClusterTrainingRuntime", "no ClusterTrainingRuntime"),
    Mistake(TRAINING, TRAIN, f"{NODES} volumes 1 persistentVolumeClaim claimName", "x", "no PersistentVolumeClaim x"),
]
RUNNING = [
    Mistake(BASE, SERVE, f"{ONE} readinessProbe httpGet path", "/ready", "asks for /ready, which is not there"),
    Mistake(BASE, SERVE, f"{ONE} readinessProbe httpGet path", "/healthz", "tells something else"),
    Mistake(BASE, SERVE, f"{ONE} livenessProbe httpGet path", "/readyz", "tells something else"),
    Mistake(BASE, SERVE, f"{ONE} startupProbe httpGet path", "/metrics", "not there without a key"),
    Mistake(BASE, SERVE, f"{ONE} readinessProbe", REMOVED, "no readinessProbe"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 readinessProbe httpGet path", "/v2/ready", "asks for /v2/ready"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 readinessProbe httpGet", REMOVED, "no readinessProbe asks for a path"),
    Mistake(BASE, SERVE, f"{POD} terminationGracePeriodSeconds", 40, "is killed after 40 s, and may take 40 s"),
    Mistake(BASE, SERVE, f"{POD} terminationGracePeriodSeconds", REMOVED, "is killed after 30 s"),
    Mistake(BASE, SERVE, f"{ONE} lifecycle preStop sleep seconds", 20, "may take 55 s"),
    Mistake(BASE, SERVE, f"{ONE} lifecycle", REMOVED, "stops at once"),
    Mistake(BASE, SERVE, f"{ONE} env", [{"name": "MASKSERVE_DRAIN_TIMEOUT_MS", "value": "60000"}], "may take 70 s"),
    Mistake(KSERVE, SERVICE, "spec predictor terminationGracePeriodSeconds", REMOVED, "is killed after 30 s"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 args 3", "--drain-timeout-ms=40000", "may take 50 s"),
    Mistake(BASE, SERVE, f"{ONE} image", "maskserve:latest", "maskserve:latest is none of the images"),
    Mistake(BASE, SERVE, f"{POD} initContainers 0 image", "busybox", "busybox is none of the images"),
    Mistake(TRAINING, TRAIN, f"{NODES} containers 0 image", "maskserve", "maskserve is none of the images"),
    Mistake(BASE, SERVE, f"{POD} securityContext runAsUser", 1000, "runs as 1000, the image as 10001:10001"),
    Mistake("overlays/gpu", SERVE, f"{ONE} image", "maskserve:cpu", "an image without CUDA"),
    Mistake(
        BASE, SERVE, f"{ONE} env", [{"name": "MASKSERVE_DRAIN_MS", "value": "1"}], "MASKSERVE_DRAIN_MS is no setting"
    ),
    Mistake(
        BASE, SERVE, f"{ONE} env", [{"name": "MASKSERVE_PORT", "value": "http"}], "MASKSERVE_PORT: Input should be"
    ),
    Mistake(BASE, SERVE, f"{ONE} args", ["--max-queue=3"], "MASKSERVE_MAX_QUEUE is no setting"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 args 2", "--model-aliases={{.Name}}", "should be as in best=nuclei:1"),
    Mistake(
        KSERVE, RUNTIME, "spec containers 0 args 1", "--models=/models", "serves /models, where nothing is mounted"
    ),
    Mistake(BASE, SERVE, f"{ONE} volumeMounts 0 mountPath", "/data", "serves /models, where nothing is mounted"),
    Mistake(BASE, SERVE, f"{ONE} envFrom", [], "does not say which of several models answers"),
    Mistake(BASE, SERVE, f"{ONE} command", ["serve"], "['serve'] replaces the server"),
    Mistake(TRAINING, JOB, "spec trainer args 0", "--recipes", "--recipes"),
    Mistake(TRAINING, JOB, "spec trainer args 1", "cells", "cells"),
    Mistake(TRAINING, JOB, "spec trainer command 2", "training", "starts no training"),
    Mistake(TRAINING, JOB, "spec trainer args 3", "/runs", "writes to /runs, where nothing is mounted"),
    Mistake(BASE, SERVE, f"{ONE} volumeMounts 1 mountPath", "/temp", "/tmp cannot be written"),
    Mistake(BASE, SERVE, f"{ONE} volumeMounts 0 readOnly", False, "/models can be written"),
    Mistake(TRAINING, TRAIN, f"{NODES} containers 0 volumeMounts 1 readOnly", True, "/work cannot be written"),
    Mistake(BASE, SERVE, f"{POD} securityContext runAsNonRoot", REMOVED, "runAsNonRoot is None"),
    Mistake(BASE, SERVE, f"{POD} securityContext seccompProfile type", "Unconfined", "seccompProfile is"),
    Mistake(BASE, SERVE, f"{ONE} securityContext capabilities drop", [], "capabilities is"),
    Mistake(BASE, SERVE, f"{ONE} securityContext capabilities add", ["NET_ADMIN"], "capabilities is"),
    Mistake(BASE, SERVE, f"{ONE} securityContext privileged", True, "is privileged"),
    Mistake(BASE, SERVE, f"{POD} initContainers 0 securityContext", REMOVED, "first-model: allowPrivilegeEscalation"),
    Mistake(KSERVE, "Job/maskserve-first-model", f"{ONE} securityContext", REMOVED, "readOnlyRootFilesystem is None"),
    Mistake(BASE, SERVE, f"{POD} hostNetwork", True, "has hostNetwork"),
    Mistake(BASE, SERVE, f"{POD} volumes 2", {"name": "tmp", "hostPath": {"path": "/tmp"}}, "a folder of the machine"),
    Mistake(BASE, SERVE, f"{POD} automountServiceAccountToken", REMOVED, "has a token"),
    Mistake(KSERVE, RUNTIME, "spec containers 0 securityContext readOnlyRootFilesystem", False, "readOnlyRoot"),
    Mistake(TRAINING, TRAIN, f"{NODES} containers 0 securityContext", REMOVED, "readOnlyRootFilesystem is None"),
    Mistake(BASE, SERVE, f"{ONE} resources limits memory", REMOVED, "limits no memory"),
    Mistake(TRAINING, TRAIN, f"{NODES} containers 0 resources requests cpu", REMOVED, "requests no cpu"),
    Mistake(BASE, SERVE, f"{POD} volumes 2 emptyDir", {}, "the volume tmp has no limit"),
]
BUDGET, POLICY = "PodDisruptionBudget/maskserve", "NetworkPolicy/maskserve"
REPLACING = [
    Mistake(BASE, SERVE, f"{ONE} resources requests memory", "8Gi", "requests 8Gi of memory, and its limit is 4Gi"),
    Mistake(BASE, SERVE, f"{POD} initContainers 0 resources requests cpu", "1500m", "requests 1500m of cpu"),
    Mistake("overlays/gpu", SERVE, f"{ONE} resources limits nvidia.com/gpu", "2", "requests 1 of nvidia.com/gpu"),
    Mistake(TRAINING, TRAIN, f"{NODES} containers 0 resources limits memory", "8G", "requests 32Gi of memory"),
    Mistake(BASE, SERVE, "spec strategy rollingUpdate maxSurge", 0, "none could be replaced"),
    Mistake("overlays/gpu", SERVE, "spec strategy rollingUpdate maxUnavailable", "0%", "none could be replaced"),
    Mistake(BASE, BUDGET, "spec maxUnavailable", 0, "no machine could be drained"),
    Mistake(BASE, BUDGET, "spec minAvailable", 2, "no machine could be drained"),
    Mistake("overlays/keda", BUDGET, "spec minAvailable", 2, "no machine could be drained"),
    Mistake(BASE, POLICY, "spec policyTypes", ["Ingress"], "says nothing of Egress"),
    Mistake(BASE, POLICY, "spec policyTypes", REMOVED, "says nothing of Ingress"),
]
IN_FLIGHT, WANTED = "spec triggers 0 metadata", "spec triggers 1 metadata query"
SCALING = [
    Mistake("overlays/keda", KEDA, f"{IN_FLIGHT} query", "sum(maskserve_in_flight)", "no metric maskserve_in_flight"),
    Mistake("overlays/keda", KEDA, WANTED, "max(maskserve:wanted)", "no metric maskserve:wanted"),
    Mistake("overlays/keda", KEDA, f"{IN_FLIGHT} query", 'sum(maskserve_requests_in_flight{app="x"})', "no label app"),
    Mistake("overlays/keda", KEDA, f"{IN_FLIGHT} ignoreNullValues", "true", "takes a query that finds nothing for"),
    Mistake("overlays/keda", KEDA, f"{IN_FLIGHT} ignoreNullValues", REMOVED, "takes a query that finds nothing for"),
    Mistake("overlays/keda", KEDA, "spec fallback", REMOVED, "no replicas to fall back to"),
    Mistake("overlays/keda", KEDA, "spec maxReplicaCount", 2, "2 to 2 replicas leave nothing to scale"),
    Mistake("overlays/keda", KEDA, "spec advanced horizontalPodAutoscalerConfig behavior", {}, "scales down after 0 s"),
    Mistake("overlays/keda", SERVE, "spec replicas", 2, "sets Deployment/maskserve back to 2 replicas"),
    Mistake("overlays/hpa", HPA, "spec behavior scaleDown stabilizationWindowSeconds", 60, "scales down after 60 s"),
    Mistake(
        "overlays/hpa", HPA, "spec metrics 0 pods metric name", "maskserve_queue", "the adapter has no maskserve_queue"
    ),
    Mistake("overlays/hpa", HPA, "spec metrics 1 external metric name", "x", "the adapter has no x"),
    Mistake("overlays/hpa", SERVE, "spec replicas", 2, "sets Deployment/maskserve back to 2 replicas"),
    Mistake("overlays/monitoring", RULE, "spec groups 0 rules 0 expr", "rate(maskserve_requests[5m])", "no metric"),
    Mistake("overlays/monitoring", RULE, "spec groups 0 rules 0 expr", "maskserve_uploads_in_flight", "is not docker/"),
    Mistake("overlays/monitoring", "ServiceMonitor/maskserve", "spec endpoints 0 path", "/stats", "scrapes /stats"),
    Mistake("overlays/monitoring", "Service/maskserve", f"metadata labels {LABEL}", "serve", "the job is called serve"),
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_found_in_what_is_built(folder: str, known: Known) -> None:
    assert list(findings(build(folder), known)) == []


@pytest.mark.parametrize("mistake", [*WIRING, *RUNNING, *REPLACING, *SCALING], ids=str)
def test_a_mistake_is_found(mistake: Mistake, known: Known) -> None:
    found = list(findings(mistake.plant(), known))
    assert any(mistake.said in one for one in found), found
