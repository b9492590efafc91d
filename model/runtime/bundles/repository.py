"""A model repository: a folder of bundles NAME/VERSION/, versions whole numbers, highest wins.

One model's folder VERSION/ and one bundle are read as repositories too: of that model, and of that version. There the
manifests say the model's name, for the folder may have any, such as the /mnt/models to which KServe copies what lies
below a model's address.

It is looked at anew on every call, so a version that appears while the server runs is seen by the next call. Everything
else in the folder is ignored: hidden entries (a publisher at work), other names, and folders without a manifest.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from model.runtime.bundles.bundle import (
    MANIFEST,
    Bundle,
    BundleError,
    InvalidManifest,
    bundle_versions,
    open_bundle,
    read_manifest,
)
from model.runtime.bundles.manifest import ModelName

EMBEDDED: Final = Path(__file__).resolve().parents[2] / "embedded"
"""The repository that ships with the package."""

_NAME: Final = TypeAdapter(ModelName)


class RepositoryError(Exception):
    """A repository that cannot be read, or does not have what was asked for."""


class NotARepository(RepositoryError):
    """The folder is missing, or holds bundles in more than one way."""


class NoSuchModel(RepositoryError):
    """No model of that name."""


class NoSuchVersion(RepositoryError):
    """The model has no such version."""


class Repository:
    """The bundles under one folder. Holds no state besides its path; may be used from any thread.

    trusted: public keys of which one must have signed a bundle, and what its manifest says; none: anybody may have.
    """

    def __init__(self, path: Path, trusted: Collection[str] = ()) -> None:
        self.path = path
        self._trusted = trusted

    def models(self) -> dict[str, tuple[int, ...]]:
        """Every model that has a version, by name in alphabetical order, with its versions, rising.

        Raises:
            NotARepository: the folder is missing, or holds bundles in more than one way.
            BundleError: it is one bundle or one model's folder, and no manifest says which model's.
        """
        own = self._own_versions()
        names = sorted(entry.name for entry in self.path.iterdir() if _is_name(entry.name))
        found = {name: versions for name in names if (versions := bundle_versions(self.path / name))}
        if not own and not self._is_bundle():
            return found
        ways = [f"one bundle ({MANIFEST})"] if self._is_bundle() else []
        ways += [f"one model's versions ({own[-1]}/{MANIFEST})"] if own else []
        ways += [f"models ({name}/{versions[-1]}/{MANIFEST})" for name, versions in list(found.items())[:1]]
        if len(ways) > 1:
            raise NotARepository(f"{self.path} holds {' and '.join(ways)}; give each a folder of its own")
        if own:
            return {self._own_name(own): own}
        manifest = read_manifest(self.path, self._trusted)
        return {manifest.name: (manifest.version,)}

    def latest(self, name: str, verify: bool = True) -> Bundle:
        """Open the highest version of a model.

        Raises:
            RepositoryError: there is no such model, or no repository.
            BundleError: the version is there, but damaged.
        """
        return self.get(name, self._known(name)[-1], verify)

    def get(self, name: str, version: int, verify: bool = True) -> Bundle:
        """Open one version of a model. Raises as `latest` does."""
        versions = self._known(name)
        if version not in versions:
            raise NoSuchVersion(
                f"{self.path} has no version {version} of {name!r}; it has {', '.join(map(str, versions))}"
            )
        bundle = open_bundle(self.folder(name, version), verify, self._trusted)
        manifest = bundle.manifest
        if (manifest.name, manifest.version) != (name, version):
            right = self.path / manifest.name / str(manifest.version)
            if bundle.path.parent == self.path:  # one model's folder: those of others may lie anywhere
                right = self.path / right.name if manifest.name == name else Path(manifest.name, right.name)
            raise InvalidManifest(
                f"{bundle.path} holds {manifest.name} version {manifest.version} by its manifest; move it to {right}"
            )
        return bundle

    def folder(self, name: str, version: int) -> Path:
        """Where a version lies that `models` has named. It need not be there any more."""
        if self._is_bundle():
            return self.path
        own = self.path / str(version)
        return own if (own / MANIFEST).is_file() else self.path / name / str(version)

    def _is_bundle(self) -> bool:
        return (self.path / MANIFEST).is_file()

    def _own_versions(self) -> tuple[int, ...]:
        """The versions of the one model whose folder this is. Raises NotARepository where there is no folder."""
        if not self.path.is_dir():
            raise NotARepository(
                f"{self.path} is no folder; give a model repository, a folder of NAME/VERSION/, or one model of it"
            )
        return bundle_versions(self.path)

    def _own_name(self, versions: tuple[int, ...]) -> str:
        """What the oldest version calls itself that can be read, so that no newer one gives the model another name."""
        unreadable: list[BundleError] = []
        for version in versions:
            try:
                return read_manifest(self.path / str(version), self._trusted).name
            except BundleError as error:
                unreadable.append(error)
        raise unreadable[-1]

    def _known(self, name: str) -> tuple[int, ...]:
        if self._own_versions() or self._is_bundle():
            versions = self.models().get(name, ())
        else:  # the name is checked before it becomes a path: it comes from a request
            versions = bundle_versions(self.path / name) if _is_name(name) else ()
        if not versions:
            raise NoSuchModel(f"{self.path} has no model {name!r}; it has {', '.join(self.models()) or 'none'}")
        return versions


def _is_name(name: str) -> bool:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        return False
    return True
