"""What Prometheus is asked, by scalers and alerts, is what the server tells; and scaling down is slow."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from tests.docker.kubernetes.manifests import KUBERNETES, Manifest, find, name_of, of_kind
from tests.docker.kubernetes.meaning.known import RULES, Known
from tests.docker.queries import labels_asked, metrics_in

ADAPTER = yaml.safe_load((KUBERNETES / "components" / "hpa" / "adapter.yaml").read_text())
SLOW = 300
"""Seconds in which load may come back before a replica is given up."""


def queries(documents: list[Manifest], known: Known) -> Iterator[str]:
    for document in of_kind(documents, "ScaledObject"):
        for trigger in document["spec"]["triggers"]:
            yield from _asks(f"{name_of(document)}, {trigger['name']}", trigger["metadata"]["query"], known)
            if trigger["metadata"].get("ignoreNullValues") != "false":
                yield f"{name_of(document)}, {trigger['name']}: takes a query that finds nothing for no load"
    for document in of_kind(documents, "PrometheusRule"):
        for rule in (rule for group in document["spec"]["groups"] for rule in group["rules"]):
            yield from _asks(f"{name_of(document)}, {rule.get('alert') or rule['record']}", rule["expr"], known)
    provided = {rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0]: rule for rule in _adapted()}
    for document in of_kind(documents, "HorizontalPodAutoscaler"):
        for metric in document["spec"]["metrics"]:
            name = metric[metric["type"].lower()]["metric"]["name"]
            if name not in provided:
                yield f"{name_of(document)}: the adapter has no {name}"
            else:
                yield from _asks(f"{name_of(document)}, {name}", provided[name]["seriesQuery"], known)


def scaling(documents: list[Manifest]) -> Iterator[str]:
    for document in of_kind(documents, "ScaledObject"):
        spec = document["spec"]
        yield from _is_slow(document, spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"])
        yield from _is_free(document, documents, spec["minReplicaCount"], spec["maxReplicaCount"])
        if spec.get("fallback", {}).get("replicas", 0) < spec["minReplicaCount"]:
            yield f"{name_of(document)}: has no replicas to fall back to where Prometheus is gone"
    for document in of_kind(documents, "HorizontalPodAutoscaler"):
        spec = document["spec"]
        yield from _is_slow(document, spec["behavior"])
        yield from _is_free(document, documents, spec["minReplicas"], spec["maxReplicas"])


def alerts(documents: list[Manifest]) -> Iterator[str]:
    for document in of_kind(documents, "PrometheusRule"):
        if document["spec"] != RULES:
            yield f"{name_of(document)}: is not docker/monitoring/rules.yml; its head says how to make it so"
    for monitor in of_kind(documents, "ServiceMonitor"):
        for service in of_kind(documents, "Service"):
            job = service["metadata"]["labels"].get(monitor["spec"].get("jobLabel", ""), service["metadata"]["name"])
            if job != "maskserve":
                yield f"{name_of(monitor)}: the job is called {job}, which no alert knows"
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint.get("path", "/metrics") != "/metrics":
                yield f"{name_of(monitor)}: scrapes {endpoint['path']}"


def _adapted() -> list[Manifest]:
    return [*ADAPTER["rules"]["custom"], *ADAPTER["rules"]["external"]]


def _asks(where: str, query: str, known: Known) -> Iterator[str]:
    for name in metrics_in(query) - set(known.metrics):
        yield f"{where}: there is no metric {name}"
    for name, label in labels_asked(query):
        if label not in known.metrics.get(name, ()):
            yield f"{where}: {name} has no label {label}"


def _is_slow(document: Manifest, behavior: Manifest) -> Iterator[str]:
    window = behavior.get("scaleDown", {}).get("stabilizationWindowSeconds", 0)
    if window < SLOW:
        yield f"{name_of(document)}: scales down after {window} s"


def _is_free(document: Manifest, documents: list[Manifest], least: int, most: int) -> Iterator[str]:
    if not 1 <= least < most:
        yield f"{name_of(document)}: {least} to {most} replicas leave nothing to scale"
    target = find(documents, "Deployment", document["spec"]["scaleTargetRef"]["name"])
    if target is not None and "replicas" in target["spec"]:
        yield f"{name_of(document)}: each apply sets {name_of(target)} back to {target['spec']['replicas']} replicas"
