"""A bundle: one version of one model, a folder NAME/VERSION with `manifest.json` and the files that the manifest names.

A bundle is read with `open_bundle` and made with `publish_bundle`; nothing else writes into a repository. It appears
under its version with one rename, complete, and is never changed after that.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from model.runtime.bundles.errors import (
    BundleError,
    DamagedFile,
    InvalidManifest,
    MissingFile,
    MissingManifest,
    NewerFormat,
    PublishError,
    Untrusted,
)
from model.runtime.bundles.manifest import (
    FORMAT,
    NETWORK_FILES,
    Evaluation,
    ExportCheck,
    FileRecord,
    Manifest,
    ManifestDraft,
    ModelName,
    Provenance,
    ServingDefaults,
)
from model.runtime.bundles.network_file import check_network
from model.runtime.bundles.reading import read_small
from model.runtime.bundles.signatures import SIGNATURE, check_signature
from model.runtime.bundles.writing import (
    copy_file,
    hidden_folder,
    naming,
    record_of,
    sha256_of,
    sync_folder,
    write_file,
)

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "BundleError",
    "DamagedFile",
    "Evaluation",
    "ExportCheck",
    "FileRecord",
    "InvalidManifest",
    "Manifest",
    "ManifestDraft",
    "MissingFile",
    "MissingManifest",
    "NewerFormat",
    "Provenance",
    "PublishError",
    "ServingDefaults",
    "bundle_versions",
    "open_bundle",
    "publish_bundle",
    "published_versions",
    "read_manifest",
    "why_no_repository",
]

MANIFEST: Final = "manifest.json"
MOST_MANIFEST: Final = 16 << 20
"""Bytes. One has some ten thousand."""

_NAME: Final = TypeAdapter(ModelName)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Where one of the manifest's files lies. KeyError when the manifest does not name it."""
        if name not in self.manifest.files:
            raise KeyError(name)
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of one of the manifest's files, which may have been replaced since the bundle was opened.

        Raises DamagedFile where it is not what was published, KeyError as `file` does, and OSError.
        """
        file = self.file(name)
        content = file.read_bytes()
        _require_digest(file, hashlib.sha256(content).hexdigest(), self.manifest.files[name])
        return content


def open_bundle(path: Path, verify: bool = True, trusted: Collection[str] = ()) -> Bundle:
    """Read a bundle and check that every file is the one that was published, and every network complete in its file.

    `verify=False` compares the files' sizes but spares reading them. trusted: public keys of which one must have signed
    the bundle, and then nothing may lie in its folder that is not signed; none: anybody's bundle is opened.

    Raises:
        BundleError: one of its subclasses, which say what is wrong.
        OSError: the folder cannot be read.
    """
    manifest = read_manifest(path, trusted)
    if trusted:
        _require_nothing_else(path, manifest)
    for name, record in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise MissingFile(f"{file} is missing, though the manifest names it; publish or copy the bundle again")
        size = file.stat().st_size
        if size != record.bytes:
            raise DamagedFile(
                f"{file} has {size} bytes and was published with {record.bytes}: it was cut short or replaced; "
                f"publish or copy the bundle again"
            )
        if verify and name in NETWORK_FILES:
            content = file.read_bytes()
            _require_digest(file, hashlib.sha256(content).hexdigest(), record)
            check_network(memoryview(content), file)
        elif verify:
            _require_digest(file, sha256_of(file), record)
    return Bundle(path, manifest)


def read_manifest(path: Path, trusted: Collection[str] = ()) -> Manifest:
    """The manifest of the bundle in this folder; its files are not looked at. Raises as `open_bundle` does."""
    file = path / MANIFEST
    try:
        text = read_small(file, MOST_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        reason = "has no manifest.json" if path.is_dir() else "is not a folder"
        raise MissingManifest(f"{path} is no bundle: it {reason}; give a folder NAME/VERSION of a repository") from None
    if trusted:
        check_signature(path, text, trusted)
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise InvalidManifest(f"{file} is no JSON ({error}); publish or copy the bundle again") from error
    written = content.get("format") if isinstance(content, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise NewerFormat(
            f"{file} has format {written} and this release reads formats up to {FORMAT}; upgrade maskserve, or export "
            f"the model again with this release"
        )
    try:
        # From JSON, where a list stands for a tuple and a string for a time.
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'manifest'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise InvalidManifest(f"{file} is not a valid manifest: {problems}") from error


def publish_bundle(
    staging: Path,
    draft: ManifestDraft,
    repository: Path,
    name: str,
    describe: Callable[[Path, Manifest], None] | None = None,
) -> Bundle:
    """Publish the files of the folder `staging` as the next version of the model `name`.

    The files are copied to a hidden folder of the repository, reach the disk, and appear as NAME/VERSION with one
    rename: a crash at any point leaves a hidden folder, which nothing serves, or the whole bundle. Publishers may run
    at the same time, in any process; each gets a version of its own. `staging` stays as it is.

    `describe` may write what the manifest says into the copies of `NETWORK_FILES`, before their hashes are taken. The
    `files` of that manifest are therefore those before.

    Raises:
        PublishError: `name` is no model name, `repository` is a bundle or one model's folder, or cannot be written, or
            `staging` holds a folder, no `model.onnx` or nothing.
        OSError: it is published, but the system cannot say that it would survive a power cut.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise PublishError(
            f"{name!r} is no model name; use small letters, digits, '.', '_' and '-', a letter or digit first"
        ) from None
    if reason := why_no_repository(repository):
        raise PublishError(reason)
    files = _staged_files(staging)
    versions = repository / name
    with _refusing(repository):
        versions.mkdir(parents=True, exist_ok=True)
    with _refusing(repository), hidden_folder(repository, name) as hidden:
        records = {file.name: copy_file(file, hidden / file.name) for file in files}
        while True:
            version = max(published_versions(versions), default=0) + 1
            manifest = _complete(draft, name, version, records)
            if describe is not None:
                for network in (name for name in NETWORK_FILES if name in records):
                    with naming(hidden / network):
                        describe(hidden / network, manifest)
                    records[network] = record_of(hidden / network)
                manifest = _complete(draft, name, version, records, manifest.created)
            write_file(hidden / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
            sync_folder(hidden)
            target = versions / str(version)
            try:
                hidden.rename(target)
                break
            except OSError as error:  # such as that another publisher took this version in between
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
    sync_folder(versions)
    sync_folder(repository)
    return Bundle(target, manifest)


@contextmanager
def _refusing(repository: Path) -> Iterator[None]:
    """What the system says of a write, such as that the disk is full, as a PublishError."""
    try:
        yield
    except OSError as error:
        raise PublishError(
            f"{error.filename or repository} cannot be written ({error.strerror}): make room, or choose another "
            f"repository; nothing was published, and what was there before is untouched"
        ) from error


def why_no_repository(path: Path) -> str:
    """Why nothing is to be published there: it is a bundle or one model's folder. Nothing where it is neither."""
    if (path / MANIFEST).is_file():
        what, where = "one bundle", f"two levels up: {path.resolve().parent.parent}"
    elif bundle_versions(path):
        what, where = "one model's folder", f"one level up: {path.resolve().parent}"
    else:
        return ""
    return f"{path} is {what}, not a repository of NAME/VERSION/ to publish into; give the folder {where}"


def bundle_versions(folder: Path) -> tuple[int, ...]:
    """The versions in a model's folder that have a manifest, rising; none where there is no folder."""
    if not folder.is_dir():
        return ()
    return tuple(version for version in published_versions(folder) if (folder / str(version) / MANIFEST).is_file())


def published_versions(folder: Path) -> list[int]:
    """The versions in a model's folder, rising: entries named by a whole number as this module writes it."""
    names = (entry.name for entry in folder.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0"))


def _require_nothing_else(path: Path, manifest: Manifest) -> None:
    if unsigned := sorted({file.name for file in path.iterdir()} - {MANIFEST, SIGNATURE} - manifest.files.keys()):
        raise Untrusted(
            f"{path / unsigned[0]} is not among the files that were signed; remove it, or copy the bundle again"
        )


def _require_digest(file: Path, digest: str, record: FileRecord) -> None:
    if digest != record.sha256:
        raise DamagedFile(
            f"{file} was changed after publishing: its SHA-256 is {digest} and was {record.sha256}; "
            f"publish or copy the bundle again"
        )


def _complete(
    draft: ManifestDraft, name: str, version: int, records: dict[str, FileRecord], created: datetime | None = None
) -> Manifest:
    known = {field: getattr(draft, field) for field in ManifestDraft.model_fields}
    try:
        return Manifest(**known, name=name, version=version, created=created or datetime.now(UTC), files=records)
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors())
        raise PublishError(f"the bundle {name} {version} cannot be published: {problems}") from error


def _staged_files(staging: Path) -> list[Path]:
    try:
        files = sorted(staging.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise PublishError(f"{staging} is not a folder; write the bundle's files into one and publish that") from None
    for file in files:
        if not file.is_file():
            raise PublishError(f"{file} is no file; a bundle holds plain files only")
        if file.name in (MANIFEST, SIGNATURE):
            raise PublishError(f"{file} is in the way: publishing writes the manifest, and signing signs it; remove it")
    return files
