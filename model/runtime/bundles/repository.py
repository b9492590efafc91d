"""A model repository: a folder of bundles NAME/VERSION/, versions whole numbers, highest wins.

It is looked at anew on every call, so a version that appears while the server runs is seen by the next call. Everything
else in the folder is ignored: hidden entries (a publisher at work), other names, and folders without a manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from model.runtime.bundles.bundle import MANIFEST, Bundle, InvalidManifest, open_bundle, published_versions
from model.runtime.bundles.manifest import ModelName

EMBEDDED: Final = Path(__file__).resolve().parents[2] / "embedded"
"""The repository that ships with the package."""

_NAME: Final = TypeAdapter(ModelName)


class RepositoryError(Exception):
    """A repository that cannot be read, or does not have what was asked for."""


class NotARepository(RepositoryError):
    """The folder is missing, or is one bundle or one model instead of a repository."""


class NoSuchModel(RepositoryError):
    """No model of that name."""


class NoSuchVersion(RepositoryError):
    """The model has no such version."""


class Repository:
    """The bundles under one folder. Holds no state besides its path; may be used from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def models(self) -> dict[str, tuple[int, ...]]:
        """Every model that has a version, by name in alphabetical order, with its versions, rising.

        Raises:
            NotARepository: the folder is missing, or is itself a bundle or one model's folder.
        """
        self._check()
        names = sorted(entry.name for entry in self.path.iterdir() if _is_name(entry.name))
        found = {name: self._versions(name) for name in names}
        return {name: versions for name, versions in found.items() if versions}

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
        bundle = open_bundle(self.path / name / str(version), verify)
        manifest = bundle.manifest
        if (manifest.name, manifest.version) != (name, version):
            raise InvalidManifest(
                f"{bundle.path} holds {manifest.name} version {manifest.version} by its manifest; "
                f"move it to {self.path / manifest.name / str(manifest.version)}"
            )
        return bundle

    def _check(self) -> None:
        if not self.path.is_dir():
            raise NotARepository(f"{self.path} is no folder; give a model repository, a folder of NAME/VERSION/")
        if (self.path / MANIFEST).is_file():
            raise NotARepository(
                f"{self.path} is one bundle, not a repository of NAME/VERSION/; give the folder two levels up: "
                f"{self.path.resolve().parents[1]}"
            )
        if any((self.path / str(version) / MANIFEST).is_file() for version in published_versions(self.path)):
            raise NotARepository(
                f"{self.path} is one model's folder, not a repository of NAME/VERSION/; give the folder one level up: "
                f"{self.path.resolve().parent}"
            )

    def _known(self, name: str) -> tuple[int, ...]:
        self._check()
        # The name is checked before it becomes a path: it comes from a request.
        versions = self._versions(name) if _is_name(name) else ()
        if not versions:
            raise NoSuchModel(f"{self.path} has no model {name!r}; it has {', '.join(self.models()) or 'none'}")
        return versions

    def _versions(self, name: str) -> tuple[int, ...]:
        folder = self.path / name
        if not folder.is_dir():
            return ()
        return tuple(v for v in published_versions(folder) if (folder / str(v) / MANIFEST).is_file())


def _is_name(name: str) -> bool:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        return False
    return True
