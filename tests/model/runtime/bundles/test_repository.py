"""A repository shows whole bundles under NAME/VERSION, and nothing else that lies around."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.runtime.bundles.bundle import (
    Bundle,
    DamagedFile,
    InvalidManifest,
    ManifestDraft,
    MissingManifest,
    publish_bundle,
)
from model.runtime.bundles.repository import EMBEDDED, NoSuchModel, NoSuchVersion, NotARepository, Repository


@pytest.fixture
def repository(staging: Path, draft: ManifestDraft, tmp_path: Path) -> Repository:
    """other 1, and tiny 1 and 2."""
    for name in ("tiny", "other", "tiny"):
        publish_bundle(staging, draft, tmp_path / "repository", name)
    return Repository(tmp_path / "repository")


def test_lists_models_and_versions(repository: Repository) -> None:
    assert repository.models() == {"other": (1,), "tiny": (1, 2)}
    assert list(repository.models()) == ["other", "tiny"]


def test_versions_are_numbers_not_text(repository: Repository, staging: Path, draft: ManifestDraft) -> None:
    for _ in range(8):
        publish_bundle(staging, draft, repository.path, "tiny")
    assert repository.models()["tiny"] == tuple(range(1, 11))
    assert repository.latest("tiny").manifest.version == 10


def test_gets_a_version_and_the_latest(repository: Repository) -> None:
    assert repository.get("tiny", 1).path == repository.path / "tiny" / "1"
    assert repository.latest("tiny").path == repository.path / "tiny" / "2"


def test_sees_what_is_published_later(repository: Repository, staging: Path, draft: ManifestDraft) -> None:
    publish_bundle(staging, draft, repository.path, "tiny")
    assert repository.latest("tiny").manifest.version == 3


@pytest.mark.parametrize(
    "clutter",
    [
        ".publishing-tiny-0123/manifest.json",
        "tiny/.3/manifest.json",
        "tiny/03/manifest.json",
        "tiny/0/manifest.json",
        "tiny/-3/manifest.json",
        "tiny/3.bak/manifest.json",
        "tiny/three/manifest.json",
        "tiny/٣/manifest.json",
        "tiny/3/model.onnx",
        "tiny/notes.txt",
        "UPPER/1/manifest.json",
        "empty/notes.txt",
        "README.md",
    ],
)
def test_ignores_everything_else(repository: Repository, clutter: str) -> None:
    file = repository.path / clutter
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    assert repository.models() == {"other": (1,), "tiny": (1, 2)}
    assert repository.latest("tiny").manifest.version == 2


@pytest.mark.parametrize("name", ["absent", "", "..", "../repository/tiny", "tiny/1", "/etc", "tiny\0", "TINY"])
def test_no_such_model(repository: Repository, name: str) -> None:
    with pytest.raises(NoSuchModel, match=r"has no model .*; it has other, tiny"):
        repository.latest(name)
    with pytest.raises(NoSuchModel):
        repository.get(name, 1)


def test_no_such_version(repository: Repository) -> None:
    with pytest.raises(NoSuchVersion, match="has no version 3 of 'tiny'; it has 1, 2"):
        repository.get("tiny", 3)


def test_empty_repository(tmp_path: Path) -> None:
    assert Repository(tmp_path).models() == {}
    with pytest.raises(NoSuchModel, match="it has none"):
        Repository(tmp_path).latest("tiny")


def test_damage_in_the_latest_is_not_hidden_by_an_older_one(repository: Repository) -> None:
    (repository.path / "tiny" / "2" / "weights.pth").write_bytes(b"")
    with pytest.raises(DamagedFile):
        repository.latest("tiny")
    assert repository.get("tiny", 1).manifest.version == 1


def test_a_renamed_bundle_is_refused(repository: Repository) -> None:
    """Its answers would carry another name or version than the one that was asked for."""
    shutil.copytree(repository.path / "tiny" / "2", repository.path / "tiny" / "5")
    with pytest.raises(InvalidManifest, match=r"holds tiny version 2 by its manifest; move it to .*/tiny/2"):
        repository.latest("tiny")


def test_wrong_folders_are_explained(bundle: Bundle, tmp_path: Path) -> None:
    root = bundle.path.parents[1]
    for path, message in (
        (bundle.path, f"one bundle, not a repository of NAME/VERSION/; give the folder two levels up: {root}"),
        (
            bundle.path.parent,
            f"one model's folder, not a repository of NAME/VERSION/; give the folder one level up: {root}",
        ),
        (tmp_path / "nowhere", "is no folder; give a model repository"),
        (bundle.path / "manifest.json", "is no folder; give a model repository"),
    ):
        for ask in (Repository(path).models, lambda path=path: Repository(path).latest("tiny")):
            with pytest.raises(NotARepository) as caught:
                ask()
            assert message in str(caught.value)
    assert Repository(root).models() == {"tiny": (1,)}


def test_a_model_may_be_named_by_a_number(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    publish_bundle(staging, draft, tmp_path / "repository", "2024")
    assert Repository(tmp_path / "repository").models() == {"2024": (1,)}


def test_version_that_vanishes_meanwhile(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repository, "_known", lambda self, name: (1, 9))
    with pytest.raises(MissingManifest):
        repository.get("tiny", 9)


def test_embedded_is_in_the_package() -> None:
    assert EMBEDDED.parts[-2:] == ("model", "embedded")
