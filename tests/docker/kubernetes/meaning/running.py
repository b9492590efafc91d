"""What a pod is told fits what is in the image: probes, periods, settings, folders, and what it may do."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from service.http.keys import OPEN
from service.server import FLUSH_SECONDS
from tests.docker.dockerfile import last, variables
from tests.docker.kubernetes.manifests import Manifest, Pods, pods
from tests.docker.kubernetes.meaning.images import TARGETS, settings_of, target_of
from tests.docker.kubernetes.meaning.known import Known
from training.command_line import parse_train_config

MOUNTED_BY_KSERVE = "/mnt/models"


def images(documents: list[Manifest]) -> Iterator[str]:
    for pod, container in _containers(documents):
        where, target = _where(pod, container), target_of(container)
        if target is None:
            yield f"{where}: {container.get('image')} is none of the images {', '.join(sorted(TARGETS))}"
            continue
        user = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        if f"{user.get('runAsUser')}:{user.get('runAsGroup')}" != last(target, "USER"):
            yield f"{where}: runs as {user.get('runAsUser')}, the image as {last(target, 'USER')}"
        if "nvidia.com/gpu" in container.get("resources", {}).get("limits", {}) and target == "serve-cpu":
            yield f"{where}: has a GPU, and an image without CUDA"


def probes(documents: list[Manifest], known: Known) -> Iterator[str]:
    for pod, container in _serving(documents):
        for name in ("readinessProbe", "livenessProbe"):
            path = container.get(name, {}).get("httpGet", {}).get("path")
            if path is None:
                yield f"{_where(pod, container)}: no {name} asks for a path"
        for name in (key for key in container if key.endswith("Probe")):
            path = container[name].get("httpGet", {}).get("path")
            if path not in known.paths & OPEN:
                yield f"{_where(pod, container)}: its {name} asks for {path}, which is not there without a key"
            if (name == "readinessProbe") != (path in ("/readyz", "/v2/health/ready")):
                yield f"{_where(pod, container)}: its {name} asks for {path}, which tells something else"


def periods(documents: list[Manifest]) -> Iterator[str]:
    for pod, container in _serving(documents):
        settings, _ = settings_of(container, documents)
        if settings is None:
            continue
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if before + settings.shutdown_delay_ms / 1e3 < 5:
            yield f"{_where(pod, container)}: stops at once, while balancers still send requests"
        needed = before + (settings.shutdown_delay_ms + settings.drain_timeout_ms) / 1e3 + FLUSH_SECONDS
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace <= needed:
            yield f"{pod.owner}: is killed after {grace} s, and may take {needed:g} s to answer what it accepted"


def settings(documents: list[Manifest]) -> Iterator[str]:
    for pod, container in _containers(documents):
        if container not in pod.working:
            continue
        if (target_of(container) or "").startswith("serve"):
            found, wrong = settings_of(container, documents)
            if "command" in container:
                yield f"{_where(pod, container)}: {container['command']} replaces the server"
            yield from (f"{_where(pod, container)}: {reason}" for reason in wrong)
            if found is not None and str(found.models) not in _mounts(container):
                yield f"{_where(pod, container)}: serves {found.models}, where nothing is mounted"
            if found is not None and found.model is None and str(found.models) != MOUNTED_BY_KSERVE:
                yield f"{_where(pod, container)}: does not say which of several models answers"
        elif container.get("command", [])[:3] != ["torchrun", "-m", "training.train"]:
            yield f"{_where(pod, container)}: {container.get('command')} starts no training"
        else:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    config = parse_train_config([*container["command"][3:], *container.get("args", ())])
            except SystemExit:
                yield f"{_where(pod, container)}: {said.getvalue().strip()}"
                continue
            writable = [mount for mount, read_only in _mounts(container).items() if not read_only]
            for path in (config.run_folder, config.model_repository):
                absolute = Path(last(target_of(container) or "train", "WORKDIR"), path)
                if not any(absolute.is_relative_to(mount) for mount in writable):
                    yield f"{_where(pod, container)}: writes to {absolute}, where nothing is mounted"


def folders(documents: list[Manifest]) -> Iterator[str]:
    """With a read-only root, what the image writes to is mounted, and what it only reads cannot be written."""
    for pod, container in _containers(documents):
        if container not in pod.working or (target := target_of(container)) is None:
            continue
        mounts = _mounts(container)
        for path in {"/tmp", variables(target).get("HOME", "/tmp")}:
            if mounts.get(path, True):
                yield f"{_where(pod, container)}: {path} cannot be written"
        for path, read_only in mounts.items():
            if target.startswith("serve") and path != "/tmp" and not read_only:
                yield f"{_where(pod, container)}: {path} can be written"


def security(documents: list[Manifest]) -> Iterator[str]:
    """Kubernetes' Pod Security Standard "restricted", and no more than that."""
    for pod in pods(documents):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner}: has a token for the API server"
        for flag in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(flag):
                yield f"{pod.owner}: has {flag}"
        for volume in pod.spec.get("volumes", ()):
            if "hostPath" in volume:
                yield f"{pod.owner}: mounts a folder of the machine"
        for container in pod.all_containers:
            held = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
            for key, wanted in (
                ("runAsNonRoot", True),
                ("allowPrivilegeEscalation", False),
                ("readOnlyRootFilesystem", True),
                ("seccompProfile", {"type": "RuntimeDefault"}),
                ("capabilities", {"drop": ["ALL"]}),
            ):
                if held.get(key) != wanted:
                    yield f"{_where(pod, container)}: {key} is {held.get(key)}, not {wanted}"
            if held.get("privileged"):
                yield f"{_where(pod, container)}: is privileged"


def resources(documents: list[Manifest]) -> Iterator[str]:
    for pod, container in _containers(documents):
        for kind in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in container.get("resources", {}).get(kind, {}):
                    yield f"{_where(pod, container)}: {kind} no {what}"
        for volume in pod.spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.owner}: the volume {volume['name']} has no limit"


def _containers(documents: list[Manifest]) -> Iterator[tuple[Pods, Manifest]]:
    for pod in pods(documents):
        for container in pod.all_containers:
            yield pod, container


def _serving(documents: list[Manifest]) -> Iterator[tuple[Pods, Manifest]]:
    for pod in pods(documents):
        for container in pod.working:
            if (target_of(container) or "").startswith("serve"):
                yield pod, container


def _where(pod: Pods, container: Manifest) -> str:
    return f"{pod.owner}, container {container['name']}"


def _mounts(container: Manifest) -> dict[str, bool]:
    """Whether it is read-only, by the path."""
    return {mount["mountPath"]: mount.get("readOnly", False) for mount in container.get("volumeMounts", ())}
