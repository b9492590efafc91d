"""Publishing is all or nothing, also for a process that is killed, and two publishers never share a version."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model.runtime.bundles import bundle as bundle_module
from model.runtime.bundles.bundle import (
    Bundle,
    ManifestDraft,
    Provenance,
    PublishError,
    open_bundle,
    publish_bundle,
)
from model.runtime.bundles.repository import Repository


def test_versions_count_up(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "repository"
    for version in (1, 2, 3):
        published = publish_bundle(staging, draft, target, "tiny")
        assert published.path == target / "tiny" / str(version)
        assert published.manifest.version == version
        assert open_bundle(published.path) == published
    assert publish_bundle(staging, draft, target, "other").manifest.version == 1
    assert sorted(path.name for path in target.iterdir()) == ["other", "tiny"]


def test_next_version_is_above_every_number_that_is_there(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    for name in ("7", "10", "011", "-12", "13.0", "new", ".14", "²"):
        (tmp_path / "repository" / "tiny" / name).mkdir(parents=True)
    assert publish_bundle(staging, draft, tmp_path / "repository", "tiny").manifest.version == 11


def test_staging_stays(staging: Path, bundle: Bundle) -> None:
    assert sorted(file.name for file in staging.iterdir()) == ["model.onnx", "weights.pth"]


def test_others_may_read_it(bundle: Bundle) -> None:
    """The server often runs as another user than the one who published."""
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o777 & ~umask
    for file in bundle.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["", "Tiny", "a b", "../tiny", "a/b", ".tiny", "tiny\n", "x" * 101])
def test_bad_names(name: str, staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="is no model name; use small letters"):
        publish_bundle(staging, draft, tmp_path / "repository", name)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("below", "said"),
    [("tiny", "is one model's folder, not a repository"), ("tiny/1", "is one bundle, not a repository")],
)
def test_nothing_is_published_into_a_model_or_a_bundle(
    below: str, said: str, bundle: Bundle, staging: Path, draft: ManifestDraft
) -> None:
    """A server of that folder could not tell what is meant by it."""
    root = bundle.path.parents[1]
    before = sorted(root.rglob("*"))
    with pytest.raises(PublishError, match=f"{said} .* up: {root}$"):
        publish_bundle(staging, draft, root / below, "tiny")
    assert sorted(root.rglob("*")) == before


STAGINGS: list[tuple[str, Callable[[Path], object], str]] = [
    ("no network", lambda staging: (staging / "model.onnx").unlink(), r"no model\.onnx"),
    ("a folder", lambda staging: (staging / "logs").mkdir(), "logs is no file"),
    ("a manifest", lambda staging: (staging / "manifest.json").touch(), "in the way: publishing writes the manifest"),
    ("an odd file name", lambda staging: (staging / ".hidden").touch(), "should match pattern"),
    ("not there", lambda staging: staging.rename(staging.with_name("gone")), "is not a folder"),
]


@pytest.mark.parametrize(("spoil", "message"), [row[1:] for row in STAGINGS], ids=[row[0] for row in STAGINGS])
def test_bad_staging(
    spoil: Callable[[Path], object], message: str, staging: Path, draft: ManifestDraft, tmp_path: Path
) -> None:
    spoil(staging)
    with pytest.raises(PublishError, match=message):
        publish_bundle(staging, draft, tmp_path / "repository", "tiny")
    assert not list((tmp_path / "repository").glob("**/manifest.json"))
    assert not list((tmp_path / "repository").glob(".*"))


@pytest.mark.parametrize("step", ["copy_file", "write_file", "sync_folder", "_complete"])
def test_failure_at_any_step_leaves_nothing(
    step: str, staging: Path, draft: ManifestDraft, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = getattr(bundle_module, step)

    def disk_full(*args: object) -> None:
        real(*args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, step, disk_full)
    with pytest.raises(PublishError, match=r"cannot be written \(No space left on device\): make room"):
        publish_bundle(staging, draft, tmp_path / "repository", "tiny")
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == ["tiny"]
    assert Repository(tmp_path / "repository").models() == {"tiny": (1,)}
    monkeypatch.undo()
    assert publish_bundle(staging, draft, tmp_path / "repository", "tiny").manifest.version == 2


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond two kilobytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file", ["weights.pth", "manifest.json"])
def test_a_full_disk_names_the_file_and_loses_nothing(
    file: str,
    staging: Path,
    draft: ManifestDraft,
    bundle: Bundle,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    (staging / "weights.pth").write_bytes(bytes(5000 if file == "weights.pth" else 5))
    if file == "manifest.json":
        draft = draft.model_copy(update={"provenance": Provenance(dataset="x" * 5000, license="none")})
    request.getfixturevalue("little_room")
    with pytest.raises(PublishError, match=rf"/{file} cannot be written \(File too large\): make room.*untouched"):
        publish_bundle(staging, draft, tmp_path / "repository", "tiny")
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["tiny"]
    assert Repository(tmp_path / "repository").models() == {"tiny": (1,)}
    assert open_bundle(bundle.path) == bundle


PUBLISHER = """
import sys
from pathlib import Path
from model.runtime.bundles import bundle
from model.runtime.bundles.manifest import ManifestDraft
for _ in range(int(sys.argv[3])):
    draft = ManifestDraft.model_validate_json(sys.argv[4])
    print(bundle.publish_bundle(Path(sys.argv[1]), draft, Path(sys.argv[2]), "tiny").manifest.version)
"""

KILLED_AFTER = """
import os, signal
def killed(*args, real=bundle.STEP):
    real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
bundle.STEP = killed
for _ in"""


@pytest.mark.parametrize("step", ["copy_file", "write_file", "sync_folder"])
def test_killed_at_any_step(step: str, staging: Path, draft: ManifestDraft, bundle: Bundle, tmp_path: Path) -> None:
    """SIGKILL gives no chance to clean up: what remains is hidden, and the next publisher is not in its way."""
    repository = tmp_path / "repository"
    program = PUBLISHER.replace("for _ in", KILLED_AFTER.replace("STEP", step), 1)
    command = [sys.executable, "-c", program, staging, repository, "1", draft.model_dump_json()]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert Repository(repository).models() == {"tiny": (1,)}
    assert len(list(repository.glob(".publishing-tiny-*"))) == 1
    assert publish_bundle(staging, draft, repository, "tiny").manifest.version == 2


def test_killed_at_any_moment(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    """One process publishes on and on and is killed; every version that can be seen opens."""
    repository = tmp_path / "repository"
    (staging / "weights.pth").write_bytes(b"w" * 3_000_000)
    command = [sys.executable, "-c", PUBLISHER, staging, repository, "1000000", draft.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not (repository / "tiny" / "4").exists():
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    versions = Repository(repository).models()["tiny"]
    assert versions == tuple(range(1, len(versions) + 1))
    assert len(versions) >= 4
    for version in versions:
        assert Repository(repository).get("tiny", version).manifest.version == version


def test_concurrent_threads(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(publish_bundle, staging, draft, tmp_path / "repository", "tiny") for _ in range(16)]
        versions = sorted(job.result().manifest.version for job in jobs)
    assert versions == list(range(1, 17))
    for version in versions:
        assert open_bundle(tmp_path / "repository" / "tiny" / str(version)).manifest.version == version


def test_concurrent_processes(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUBLISHER, staging, tmp_path / "repository", "4", draft.model_dump_json()]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    versions = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(versions) == list(range(1, 13))
    for version in versions:
        assert open_bundle(tmp_path / "repository" / "tiny" / str(version)).manifest.version == version
