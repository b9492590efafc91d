"""What the API server refuses by its meaning, and what nobody would notice before a machine is to be drained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.docker.kubernetes.manifests import Manifest, name_of, of_kind, pods

UNITS: Final = {"": 1.0, "m": 1e-3}
UNITS.update({letter: 1000.0**power for power, letter in enumerate("kMGTPE", 1)})
UNITS.update({f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)})
NONE: Final = ("0", "0%")


def amount(quantity: str | float) -> float:
    """Of a resource: 500m, 4Gi."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(quantity))
    assert found is not None, quantity
    return float(found[1]) * UNITS[found[2]]


def quantities(documents: list[Manifest]) -> Iterator[str]:
    """Nothing is asked for beyond its limit; of GPUs as many as the limit, for they cannot be promised twice."""
    for pod in pods(documents):
        for container in pod.all_containers:
            limits = container.get("resources", {}).get("limits", {})
            for what, asked in container.get("resources", {}).get("requests", {}).items():
                most = amount(limits.get(what, asked))
                if amount(asked) > most or ("/" in what and amount(asked) != most):
                    where = f"{pod.owner}, container {container['name']}"
                    yield f"{where}: requests {asked} of {what}, and its limit is {limits[what]}"


def rollouts(documents: list[Manifest]) -> Iterator[str]:
    for document in of_kind(documents, "Deployment"):
        rolling = document["spec"].get("strategy", {}).get("rollingUpdate", {})
        if all(str(rolling.get(key)) in NONE for key in ("maxUnavailable", "maxSurge")):
            yield f"{name_of(document)}: may have neither a pod more nor one less, so none could be replaced"


def budgets(documents: list[Manifest]) -> Iterator[str]:
    """A machine can be drained while the fewest replicas run."""
    counts = [document["spec"].get("replicas") for document in of_kind(documents, "Deployment")]
    counts += [document["spec"]["minReplicas"] for document in of_kind(documents, "HorizontalPodAutoscaler")]
    counts += [document["spec"]["minReplicaCount"] for document in of_kind(documents, "ScaledObject")]
    fewest = min(count for count in counts if count is not None) if any(counts) else 1
    for document in of_kind(documents, "PodDisruptionBudget"):
        spec = document["spec"]
        least, most = spec.get("minAvailable", 0), str(spec.get("maxUnavailable", 1))
        if most in NONE or least == "100%" or (isinstance(least, int) and least >= fewest):
            yield f"{name_of(document)}: allows no pod to go, so no machine could be drained"


def policies(documents: list[Manifest]) -> Iterator[str]:
    for document in of_kind(documents, "NetworkPolicy"):
        for way in ("Ingress", "Egress"):
            if way not in document["spec"].get("policyTypes", ()):
                yield f"{name_of(document)}: says nothing of {way}, which lets everything through"
