"""Manifests against the schemas of Kubernetes and of the CustomResourceDefinitions, where no unknown field passes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.docker.kubernetes.manifests import Manifest, name_of
from tests.service.harness import ROOT

CRDS = ROOT.parent / "shared" / "data" / "crds"
"""Of KServe, KEDA and Kubeflow's Trainer. They are not ours to ship."""


def is_built_in(document: Manifest) -> bool:
    """Whether Kubernetes itself has the kind."""
    group = document["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def errors(document: Manifest) -> Iterator[str]:
    """What the API server would refuse, or drop in silence. Nothing of kinds of which there is no schema."""
    # They build grammars for two seconds, which every process that collects the tests would spend.
    import jsonschema
    import kubernetes_validate

    if is_built_in(document):
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name_of(document)}: {'.'.join(map(str, error.path))}: {error.message}"
    elif (schema := custom_schemas().get((document["apiVersion"], document["kind"]))) is not None:
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
            yield f"{name_of(document)}: {error.json_path}: {error.message}"


@cache
def custom_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """By apiVersion and kind; empty where the definitions are not there."""
    found = {}
    for file in sorted(CRDS.glob("*.yaml")):
        spec = _read(file)["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = _strict(schema)
    return found


def _read(file: Path) -> Any:
    return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with every field refused that it does not name; and numbers or text where Kubernetes takes either."""
    properties = schema.get("properties", {})
    for inner in (*properties.values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict) and inner is not properties.get("metadata"):
            _strict(inner)
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        schema["additionalProperties"] = properties.keys() == {"metadata"}
    return schema
