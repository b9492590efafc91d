"""The models that are served: loaded from the repository and warmed, found by name and version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.runtime import masks
from model.runtime.bundle import Bundle
from model.runtime.engines import Engine, load_engine
from model.runtime.manifest import Manifest
from model.runtime.predict import warm_up
from model.runtime.repository import Repository
from service.background import in_background
from service.problems import NO_SUCH_MODEL, Problem
from service.settings import InvalidSettingsError, Settings


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One version of one model with its engine.

    `label_names` is indexed by label id (0 is the background); `label_ids` is the way back, where a name may stand for
    several ids (COCO's 91 labels name ten of them "N/A").
    """

    manifest: Manifest
    engine: Engine
    label_names: tuple[str, ...]
    label_ids: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, manifest: Manifest, engine: Engine) -> ServedModel:
        names = ("", *manifest.class_names)
        ids: dict[str, tuple[int, ...]] = {}
        for label_id, name in enumerate(manifest.class_names, start=1):
            ids[name] = (*ids.get(name, ()), label_id)
        return cls(manifest, engine, names, ids)

    def __str__(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"


class Models:
    """What is served, in alphabetical order, and which answers when a request names none."""

    def __init__(self, served: Sequence[ServedModel], default: str) -> None:
        self.served = tuple(served)
        self.default = self.find(default)

    def find(self, name: str | None = None, version: int | None = None) -> ServedModel:
        """Raises Problem (no such model) naming what there is."""
        if name is None:
            name = self.default.manifest.name
        for model in self.served:
            if model.manifest.name == name and version in (None, model.manifest.version):
                return model
        wanted = name if version is None else f"{name}/{version}"
        served = ", ".join(map(str, self.served))
        raise Problem(NO_SUCH_MODEL, f"There is no model {wanted}; this server has {served}.")

    def close(self) -> None:
        for model in self.served:
            model.engine.close()


def load_models(settings: Settings) -> Models:
    """Load and warm the highest version of every model in the repository. Takes seconds: not for the event loop.

    Raises InvalidSettingsError, RepositoryError, BundleError or EngineError, each with a message for the operator.
    """
    repository = Repository(settings.models)
    names = list(repository.models())
    if not names:
        raise InvalidSettingsError(f"--models: {settings.models} holds no bundle; expected NAME/VERSION/manifest.json")
    if settings.model is None and len(names) > 1:
        raise InvalidSettingsError(f"--model: say which of {', '.join(names)} answers when a request names none")
    if settings.model is not None and settings.model not in names:
        raise InvalidSettingsError(f"--model: {settings.models} has no {settings.model}; it has {', '.join(names)}")
    kernels = in_background(masks.warm_up)  # it needs another core while an engine reads its weights
    served = [_load(repository.latest(name), settings) for name in names]
    kernels.result()
    return Models(served, settings.model or names[0])


def _load(bundle: Bundle, settings: Settings) -> ServedModel:
    threads = None if settings.engine_threads == "auto" else settings.engine_threads
    engine = load_engine(bundle, settings.engine, settings.device, threads)
    warm_up(engine, bundle.manifest.preprocessing)
    return ServedModel.of(bundle.manifest, engine)
