"""What a published `model.onnx` says of itself, for whoever meets the file without its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from model.runtime.bundles.manifest import Manifest


def description(manifest: Manifest) -> dict[str, str]:
    """The metadata: `classes` and `preprocessing` are JSON as in the manifest, whose own hash is `manifest_sha256`."""
    return {
        "name": manifest.name,
        "version": str(manifest.version),
        "classes": json.dumps(manifest.class_names, ensure_ascii=False),
        "preprocessing": manifest.preprocessing.model_dump_json(),
        "license": manifest.provenance.license,
        "manifest_sha256": manifest.sha256,
    }


def describe_onnx(file: Path, manifest: Manifest) -> None:
    """Writes the description into the file, in place of another; the network stays as it is."""
    proto = onnx.load(file)
    onnx.helper.set_model_props(proto, description(manifest))
    onnx.save(proto, file)
