"""What kustomize makes of docker/kubernetes, and where the pods are in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE
from tests.service.harness import ROOT

KUBERNETES = ROOT / "docker" / "kubernetes"
FOLDERS = ("base", *(f"overlays/{folder.name}" for folder in sorted((KUBERNETES / "overlays").iterdir())))
Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="manifests need kubectl (Debian 13: apt-get install kubectl)"
)


@cache
def _built(folder: str) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "a warning"
    return list(yaml.safe_load_all(done.stdout))


def build(folder: str) -> list[Manifest]:
    """The objects that would be applied; the caller's own, to be changed at will."""
    return deepcopy(_built(folder))


def name_of(document: Manifest) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents: list[Manifest], kind: str) -> list[Manifest]:
    return [document for document in documents if document["kind"] == kind]


def find(documents: list[Manifest], kind: str, name: str) -> Manifest | None:
    return next((one for one in of_kind(documents, kind) if one["metadata"]["name"] == name), None)


@dataclass(frozen=True)
class Pods:
    """The pods that an object makes: `owner`, such as Deployment/maskserve, their labels and their specification."""

    owner: str
    labels: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """Those that run, without the ones that end before."""
        containers: list[Manifest] = self.spec["containers"]
        return containers

    @property
    def working(self) -> list[Manifest]:
        """Those that serve or train: not the one that only copies a model."""
        return [container for container in self.containers if container["name"] != "first-model"]

    @property
    def all_containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", ()), *self.containers]


def pods(documents: list[Manifest]) -> Iterator[Pods]:
    """Also those that KServe and Kubeflow's Trainer will make of two objects: a runtime, and what runs in it."""
    for document in documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "Deployment" | "Job":
                yield Pods(name_of(document), spec["template"]["metadata"]["labels"], spec["template"]["spec"])
            case "InferenceService":
                yield from _of_kserve(
                    document, find(documents, "ServingRuntime", spec["predictor"]["model"]["runtime"])
                )
            case "TrainJob":
                yield from _of_trainer(
                    document, find(documents, spec["runtimeRef"]["kind"], spec["runtimeRef"]["name"])
                )


def _of_kserve(service: Manifest, runtime: Manifest | None) -> Iterator[Pods]:
    if runtime is None:
        return
    name = service["metadata"]["name"]
    pod = deepcopy(runtime["spec"]) | service["spec"]["predictor"]
    pod["volumes"] = [*pod.get("volumes", ()), {"name": "storage"}]
    for container in pod["containers"]:
        container["args"] = [word.replace("{{.Name}}", name) for word in container.get("args", ())]
        storage = {"name": "storage", "mountPath": "/mnt/models", "readOnly": True}
        container["volumeMounts"] = [*container.get("volumeMounts", ()), storage]
    yield Pods(name_of(service), {"serving.kserve.io/inferenceservice": name}, pod)


def _of_trainer(job: Manifest, runtime: Manifest | None) -> Iterator[Pods]:
    if runtime is None:
        return
    given = {key: value for key, value in job["spec"]["trainer"].items() if key in ("command", "args")}
    for one in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
        template = deepcopy(one["template"]["spec"]["template"])
        template["spec"]["containers"] = [container | given for container in template["spec"]["containers"]]
        yield Pods(name_of(job), template["metadata"]["labels"], template["spec"])
