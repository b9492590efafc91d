"""Objects that name each other: selectors select, ports are listened on, what is referred to is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.docker.kubernetes.manifests import Manifest, find, name_of, of_kind, pods
from tests.docker.kubernetes.meaning.images import settings_of, target_of


def selectors(documents: list[Manifest]) -> Iterator[str]:
    everywhere = list(pods(documents))
    for document in documents:
        spec, owner = document.get("spec", {}), name_of(document)
        match document["kind"]:
            case "Service":
                yield from _selects(owner, spec["selector"], [pod.labels for pod in everywhere])
            case "PodDisruptionBudget":
                yield from _selects(owner, spec["selector"]["matchLabels"], [pod.labels for pod in everywhere])
            case "NetworkPolicy":
                yield from _selects(owner, spec["podSelector"]["matchLabels"], [pod.labels for pod in everywhere])
            case "Deployment":
                own = [spec["template"]["metadata"]["labels"]]
                yield from _selects(owner, spec["selector"]["matchLabels"], own)
                for spread in spec["template"]["spec"].get("topologySpreadConstraints", ()):
                    yield from _selects(f"{owner}, its spread", spread["labelSelector"]["matchLabels"], own)
            case "ServiceMonitor":
                services = [service["metadata"]["labels"] for service in of_kind(documents, "Service")]
                yield from _selects(owner, spec["selector"]["matchLabels"], services)


def ports(documents: list[Manifest]) -> Iterator[str]:
    for pod in pods(documents):
        for container in pod.working:
            where, open_ports = f"{pod.owner}, container {container['name']}", container.get("ports", ())
            for probe in (value for key, value in container.items() if key.endswith("Probe")):
                asked = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
                if asked is not None and not _among(asked, open_ports):
                    yield f"{where}: a probe asks port {asked}, which it does not have"
            if (target_of(container) or "").startswith("serve"):
                settings, _ = settings_of(container, documents)
                if settings is not None and not _among(settings.port, open_ports):
                    yield f"{where}: the server listens on port {settings.port}, which it does not have"
    for document in documents:
        spec, owner = document.get("spec", {}), name_of(document)
        match document["kind"]:
            case "Service":
                for port in spec["ports"]:
                    target = port.get("targetPort", port["port"])
                    yield from _has_port(f"{owner}: its target", target, spec["selector"], documents)
            case "NetworkPolicy":
                for rule in spec["ingress"]:
                    for port in rule["ports"]:
                        yield from _has_port(owner, port["port"], spec["podSelector"]["matchLabels"], documents)
            case "ServiceMonitor":
                names = [
                    port["name"]
                    for service in of_kind(documents, "Service")
                    if _covers(spec["selector"]["matchLabels"], service["metadata"]["labels"])
                    for port in service["spec"]["ports"]
                ]
                for endpoint in spec["endpoints"]:
                    if endpoint["port"] not in names:
                        yield f"{owner}: no service that it selects has a port {endpoint['port']}"
            case "ServingRuntime":
                annotated = spec["annotations"]["prometheus.kserve.io/port"]
                if not any(_among(int(annotated), one.get("ports", ())) for one in spec["containers"]):
                    yield f"{owner}: Prometheus is sent to port {annotated}, which it does not have"


def references(documents: list[Manifest]) -> Iterator[str]:
    for pod in pods(documents):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            yield from _is_there(pod.owner, documents, "PersistentVolumeClaim", claim)
            yield from _is_there(pod.owner, documents, "ConfigMap", volume.get("configMap", {}).get("name"))
        for container in pod.all_containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{pod.owner}, container {container['name']}: there is no volume {mount['name']}"
            for source in container.get("envFrom", ()):
                yield from _is_there(pod.owner, documents, "ConfigMap", source.get("configMapRef", {}).get("name"))
                secret = source.get("secretRef", {})
                if not secret.get("optional"):
                    yield from _is_there(pod.owner, documents, "Secret", secret.get("name"))
    for document in documents:
        spec, owner = document.get("spec", {}), name_of(document)
        match document["kind"]:
            case "ScaledObject" | "HorizontalPodAutoscaler":
                target = spec["scaleTargetRef"]
                yield from _is_there(owner, documents, target.get("kind", "Deployment"), target["name"])
            case "TrainJob":
                yield from _is_there(owner, documents, spec["runtimeRef"]["kind"], spec["runtimeRef"]["name"])
            case "InferenceService":
                model = spec["predictor"]["model"]
                yield from _is_there(owner, documents, "ServingRuntime", model["runtime"])
                scheme, _, rest = model["storageUri"].partition("://")
                if scheme == "pvc":
                    yield from _is_there(owner, documents, "PersistentVolumeClaim", rest.partition("/")[0])
                yield from _takes(owner, documents, model)


def _takes(owner: str, documents: list[Manifest], model: Manifest) -> Iterator[str]:
    """KServe's choice: the runtime knows format and protocol, and its container has the name that KServe looks for."""
    if (runtime := find(documents, "ServingRuntime", model["runtime"])) is not None:
        spec = runtime["spec"]
        formats = [{"name": one["name"], "version": one["version"]} for one in spec["supportedModelFormats"]]
        if model["modelFormat"] not in formats:
            yield f"{owner}: its runtime takes {formats}, not {model['modelFormat']}"
        if model["protocolVersion"] not in spec["protocolVersions"]:
            yield f"{owner}: its runtime speaks {spec['protocolVersions']}, not {model['protocolVersion']}"
        if "kserve-container" not in [container["name"] for container in spec["containers"]]:
            yield f"{name_of(runtime)}: no container is called kserve-container"


def _selects(owner: str, selector: dict[str, str], candidates: list[dict[str, str]]) -> Iterator[str]:
    if not selector or not any(_covers(selector, labels) for labels in candidates):
        yield f"{owner}: {selector} selects nothing"


def _covers(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def _among(port: int | str, ports: Any) -> bool:
    return any(port in (one["containerPort"], one.get("name")) for one in ports)


def _has_port(owner: str, port: int | str, selector: dict[str, str], documents: list[Manifest]) -> Iterator[str]:
    for pod in pods(documents):
        if _covers(selector, pod.labels) and not any(_among(port, one.get("ports", ())) for one in pod.containers):
            yield f"{owner}: {pod.owner} has no port {port}"


def _is_there(owner: str, documents: list[Manifest], kind: str, name: str | None) -> Iterator[str]:
    if name is not None and find(documents, kind, name) is None:
        yield f"{owner}: there is no {kind} {name}"
