"""A repository shows whole bundles under NAME/VERSION, and nothing else that lies around."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.runtime.bundles.bundle import (
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


@pytest.mark.parametrize("where", ["nowhere", "repository/tiny/1/manifest.json"])
def test_what_is_no_folder_is_no_repository(repository: Repository, tmp_path: Path, where: str) -> None:
    for ask in (Repository(tmp_path / where).models, lambda: Repository(tmp_path / where).latest("tiny")):
        with pytest.raises(NotARepository, match="is no folder; give a model repository"):
            ask()


@pytest.fixture
def mounted(repository: Repository, tmp_path: Path) -> Path:
    """Where what lies below a model's address is copied, which does not have the model's name."""
    return tmp_path / "mnt" / "models"


def test_one_models_folder_is_a_repository_of_that_model(
    repository: Repository, mounted: Path, staging: Path, draft: ManifestDraft
) -> None:
    shutil.copytree(repository.path / "tiny", mounted)
    found = Repository(mounted)
    assert found.models() == {"tiny": (1, 2)}
    assert found.latest("tiny").path == found.folder("tiny", 2) == mounted / "2"
    assert found.get("tiny", 1).path == mounted / "1"
    shutil.copytree(publish_bundle(staging, draft, repository.path, "tiny").path, mounted / "3")
    assert (found.models(), found.latest("tiny").manifest.version) == ({"tiny": (1, 2, 3)}, 3), "new versions appear"
    shutil.rmtree(mounted / "1")
    assert found.models() == {"tiny": (2, 3)}
    for name in ("models", "other", "..", "3"):
        with pytest.raises(NoSuchModel, match="it has tiny"):
            found.latest(name)
    with pytest.raises(NoSuchVersion, match="it has 2, 3"):
        found.get("tiny", 1)


def test_one_bundle_is_a_repository_of_that_version(repository: Repository, mounted: Path) -> None:
    shutil.copytree(repository.path / "tiny" / "2", mounted)
    found = Repository(mounted)
    assert found.models() == {"tiny": (2,)}
    assert found.latest("tiny").path == found.folder("tiny", 2) == mounted
    with pytest.raises(NoSuchVersion, match="it has 2"):
        found.get("tiny", 1)
    with pytest.raises(NoSuchModel, match="it has tiny"):
        found.latest("other")


def test_a_link_is_followed_to_where_it_points_now(repository: Repository, tmp_path: Path) -> None:
    """How a volume, or whoever deploys, replaces all of a folder at once."""
    link = tmp_path / "current"
    for version in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(repository.path / "tiny" / str(version))
        assert Repository(link).models() == {"tiny": (version,)}


def test_a_broken_manifest_does_not_hide_the_model_that_others_name(repository: Repository, mounted: Path) -> None:
    shutil.copytree(repository.path / "tiny", mounted)
    (mounted / "2" / "manifest.json").write_text("{")
    found = Repository(mounted)
    assert found.models() == {"tiny": (1, 2)}
    with pytest.raises(InvalidManifest, match=r"2/manifest\.json is no JSON"):
        found.latest("tiny")
    (mounted / "1" / "manifest.json").write_text("{")
    with pytest.raises(InvalidManifest, match=r"2/manifest\.json is no JSON"):
        found.models()


@pytest.mark.parametrize(
    ("put", "at", "message"),
    [
        pytest.param("tiny/2", "5", r"5 holds tiny version 2 by its manifest; move it to .*/models/2", id="a number"),
        pytest.param("other/1", "3", r"3 holds other version 1 by its manifest; move it to other/1", id="a model"),
    ],
)
def test_a_version_of_something_else_in_one_models_folder_is_refused(
    repository: Repository, mounted: Path, put: str, at: str, message: str
) -> None:
    shutil.copytree(repository.path / "tiny" / "1", mounted / "1")
    shutil.copytree(repository.path / put, mounted / at)
    assert Repository(mounted).models() == {"tiny": (1, int(at))}
    with pytest.raises(InvalidManifest, match=message):
        Repository(mounted).latest("tiny")
    assert Repository(mounted).get("tiny", 1).manifest.version == 1


@pytest.mark.parametrize(
    ("places", "message"),
    [
        pytest.param(
            ("", "1"), r"one bundle \(manifest.json\) and one model's versions \(1/manifest.json\)", id="both"
        ),
        pytest.param(("", "tiny/1"), r"one bundle .* and models \(tiny/1/manifest.json\)", id="bundle, models"),
        pytest.param(("1", "2", "tiny/1"), r"versions \(2/manifest.json\) and models \(tiny/1/", id="model, models"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    repository: Repository, mounted: Path, places: tuple[str, ...], message: str
) -> None:
    for place in places:
        shutil.copytree(repository.path / "tiny" / "1", mounted / place, dirs_exist_ok=True)
    for ask in (Repository(mounted).models, lambda: Repository(mounted).latest("tiny")):
        with pytest.raises(NotARepository, match=message):
            ask()


def test_a_model_may_be_named_by_a_number(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    publish_bundle(staging, draft, tmp_path / "repository", "2024")
    assert Repository(tmp_path / "repository").models() == {"2024": (1,)}


def test_version_that_vanishes_meanwhile(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repository, "_known", lambda self, name: (1, 9))
    with pytest.raises(MissingManifest):
        repository.get("tiny", 9)


def test_embedded_is_in_the_package() -> None:
    assert EMBEDDED.parts[-2:] == ("model", "embedded")
