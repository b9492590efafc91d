"""What the manifests may rest on: what a real server answers, and what the images and the rules are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.queries import OF_GROUPS, SUFFIXES, labels_kept
from tests.service.harness import ROOT, Server

RULES: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "monitoring" / "rules.yml").read_text())
OF_SCRAPING = frozenset({"job", "instance", "namespace", "pod"})
"""Labels that Prometheus adds."""


@dataclass(frozen=True)
class Known:
    """paths: that GET takes. metrics: the labels of each series of `/metrics` and of the rules, by its name."""

    paths: frozenset[str]
    metrics: Mapping[str, frozenset[str]]


def ask(server: Server) -> Known:
    paths = json.loads(server.client.get("/openapi.json").text)["paths"]
    rules = [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
    metrics = {rule["record"]: OF_SCRAPING.union(labels_kept(rule["expr"])) for rule in rules}
    metrics |= {"up": OF_SCRAPING, "ALERTS": OF_SCRAPING | {"alertname"}, **dict.fromkeys(OF_GROUPS, OF_SCRAPING)}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        labels = OF_SCRAPING.union(*(sample.labels for sample in family.samples))
        metrics |= {family.name + suffix: labels for suffix in SUFFIXES.get(family.type, ("",))}
    return Known(frozenset(path for path, methods in paths.items() if "get" in methods), metrics)
