"""A bundle opens when every byte is as published, and says what is wrong otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import (
    MOST_MANIFEST,
    Bundle,
    DamagedFile,
    Evaluation,
    ExportCheck,
    InvalidManifest,
    ManifestDraft,
    MissingFile,
    MissingManifest,
    NewerFormat,
    open_bundle,
    publish_bundle,
)

Edit = Callable[[dict[str, Any]], object]


def edit_manifest(bundle: Bundle, edit: Edit) -> None:
    file = bundle.path / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_opens_what_was_published(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path)
    assert opened == bundle
    assert sorted(opened.manifest.files) == ["model.onnx", "weights.pth"]
    assert opened.manifest.files["weights.pth"].bytes == 8000
    assert opened.file("model.onnx").is_file()
    with pytest.raises(KeyError):
        opened.file("model.torchscript.pt")


def test_everything_known_survives(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    full = draft.model_copy(
        update={
            "evaluation": (
                Evaluation(dataset="val", images=3, command="python -m x", engine="onnx", metrics={"mask AP": 0.5}),
            ),
            "export_check": ExportCheck(
                images=4, batch_sizes=(1, 2), max_box_error=1e-3, max_score_error=1e-6, ap_deltas={"mask AP": -1e-4}
            ),
        }
    )
    published = publish_bundle(staging, full, tmp_path / "repository", "full")
    manifest = open_bundle(published.path).manifest
    assert manifest.model_dump(include=set(ManifestDraft.model_fields)) == full.model_dump()


def in_place(file: Path, other: Callable[[Path], object]) -> None:
    file.unlink()
    other(file)


def endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


BROKEN: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    (
        "no manifest",
        lambda path: (path / "manifest.json").unlink(),
        MissingManifest,
        "is no bundle: it has no manifest.json",
    ),
    ("no file", lambda path: (path / "model.onnx").unlink(), MissingFile, r"model\.onnx is missing.*publish or copy"),
    (
        "a folder in a file's place",
        lambda path: ((path / "model.onnx").unlink(), (path / "model.onnx").mkdir()),
        MissingFile,
        r"model\.onnx is missing",
    ),
    (
        "cut short",
        lambda path: (path / "weights.pth").write_bytes(b"weights "),
        DamagedFile,
        r"weights\.pth has 8 bytes and was published with 8000",
    ),
    (
        "one byte changed",
        lambda path: (path / "weights.pth").write_bytes(b"Weights " + b"weights " * 999),
        DamagedFile,
        r"weights\.pth was changed after publishing: its SHA-256 is [0-9a-f]{64} and was [0-9a-f]{64}",
    ),
    (
        "manifest cut short",
        lambda path: (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes()[:100]),
        InvalidManifest,
        r"manifest\.json is no JSON",
    ),
    ("empty manifest", lambda path: (path / "manifest.json").write_bytes(b""), InvalidManifest, "is no JSON"),
    ("manifest of noise", lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe\0"), InvalidManifest, "no JSON"),
    ("manifest is a list", lambda path: (path / "manifest.json").write_bytes(b"[]"), InvalidManifest, "not a valid"),
    ("manifest in depth", lambda p: (p / "manifest.json").write_bytes(b"[" * 10**6), InvalidManifest, "no JSON"),
    ("manifest is a pipe", lambda p: in_place(p / "manifest.json", os.mkfifo), DamagedFile, "is no plain file"),
    ("manifest is a device", lambda p: in_place(p / "manifest.json", endless), DamagedFile, "is no plain file"),
    (
        "manifest without end",
        lambda path: os.truncate(path / "manifest.json", MOST_MANIFEST + 1),
        DamagedFile,
        f"more than {MOST_MANIFEST} bytes",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_damage_is_found(
    bundle: Bundle, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(bundle.path)
    with pytest.raises(error, match=message):
        open_bundle(bundle.path)


def rename_file(name: str) -> Edit:
    return lambda manifest: manifest["files"].update({name: manifest["files"].pop("weights.pth")})


EDITS: list[tuple[str, Edit, type[Exception], str]] = [
    (
        "a newer format",
        lambda manifest: manifest.update(format=2, novelty=True),
        NewerFormat,
        "has format 2 and this release reads formats up to 1; upgrade maskserve",
    ),
    ("no format number", lambda manifest: manifest.update(format="one"), InvalidManifest, "format: "),
    ("something unknown", lambda manifest: manifest.update(novelty=True), InvalidManifest, "novelty: Extra inputs"),
    ("something missing", lambda manifest: manifest.pop("provenance"), InvalidManifest, "provenance: Field required"),
    ("too few names", lambda manifest: manifest["class_names"].pop(), InvalidManifest, "has 1 names.*has 2 classes"),
    ("no network", lambda manifest: manifest["files"].pop("model.onnx"), InvalidManifest, r"files has no model\.onnx"),
    ("no such hash", lambda m: m["files"]["model.onnx"].update(sha256="beef"), InvalidManifest, "sha256: "),
    ("path up", rename_file("../weights.pth"), InvalidManifest, "should match pattern"),
    ("path down", rename_file("folder/weights.pth"), InvalidManifest, "should match pattern"),
    ("absolute path", rename_file("/etc/passwd"), InvalidManifest, "should match pattern"),
    ("the folder itself", rename_file("."), InvalidManifest, "should match pattern"),
    ("a name with a line break", rename_file("weights\n"), InvalidManifest, "should match pattern"),
    ("a backslash", rename_file("..\\weights"), InvalidManifest, "should match pattern"),
    ("a model name that escapes", lambda manifest: manifest.update(name="../x"), InvalidManifest, "name: String"),
    ("a time without a zone", lambda m: m.update(created="2026-01-01T00:00:00"), InvalidManifest, "created: "),
]


@pytest.mark.parametrize(("edit", "error", "message"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_edited_manifest(bundle: Bundle, edit: Edit, error: type[Exception], message: str) -> None:
    edit_manifest(bundle, edit)
    with pytest.raises(error, match=message) as caught:
        open_bundle(bundle.path)
    assert str(bundle.path / "manifest.json") in str(caught.value)


def test_without_verification_the_sizes_still_count(bundle: Bundle) -> None:
    file = bundle.path / "weights.pth"
    file.write_bytes(b"W" + file.read_bytes()[1:])
    assert open_bundle(bundle.path, verify=False) == bundle
    file.write_bytes(file.read_bytes()[1:])
    with pytest.raises(DamagedFile):
        open_bundle(bundle.path, verify=False)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingManifest, match="nowhere is no bundle: it is not a folder"):
        open_bundle(tmp_path / "nowhere")


def test_names_must_fit_the_architecture(draft: ManifestDraft) -> None:
    fields = draft.model_dump()
    with pytest.raises(ValidationError, match="class_names has 1 names, but the architecture has 2 classes"):
        ManifestDraft.model_validate(fields | {"class_names": ("one",)})
    with pytest.raises(ValidationError, match="keypoint_names has 1 names, but the model predicts 0 keypoints"):
        ManifestDraft.model_validate(fields | {"keypoint_names": ("nose",)})
    keypoints = ArchitectureConfig(task="keypoints", num_classes=3, num_keypoints=2)
    with pytest.raises(ValidationError, match="keypoint_names has 0 names, but the model predicts 2 keypoints"):
        ManifestDraft.model_validate(fields | {"architecture": keypoints})


def test_figures_must_be_numbers() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Evaluation(dataset="val", images=1, command="x", engine="onnx", metrics={"AP": float("nan")})
