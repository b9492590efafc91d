"""What Prometheus is asked: the series in an expression, and those of an answer to GET /metrics."""

from __future__ import annotations

import re

from service.group.accounts import of_group

OF_GROUPS = {sample[0] for metric in of_group(ready=2, deaths=0) for sample in metric[3]}
"""Series without labels that a server of several processes has beside those of one."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
"""What Prometheus' text adds to the name of a family for its series, by its type; nothing for others."""


def metrics_in(expression: str) -> set[str]:
    """The metrics that a query names: words that are no label, value, function or keyword."""
    without_labels = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", expression)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", without_labels)
    return {word for word in words if word not in {"or", "and", "unless", "offset", "by", "on", "d", "h", "m", "s"}}


def labels_asked(expression: str) -> set[tuple[str, str]]:
    """The metric and the label of every matcher, such as `name{label="value"}`."""
    selectors = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}", expression)
    return {(name, label) for name, matchers in selectors for label in re.findall(r"([a-zA-Z_]+)\s*[!=]", matchers)}


def labels_kept(expression: str) -> set[str]:
    """The labels that aggregations keep."""
    return set(re.findall(r"[a-zA-Z_]+", " ".join(re.findall(r"\bby\s*\(([^)]*)\)", expression))))
