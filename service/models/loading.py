"""Loads versions from the repository and warms them up. Takes seconds each: not for the event loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from model.runtime.bundles.bundle import Bundle, BundleError
from model.runtime.bundles.manifest import Manifest, Precision
from model.runtime.bundles.repository import Repository, RepositoryError
from model.runtime.engines.choosing import ChosenEngine, choose_engine
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.engine import INSTEAD, Engine, EngineError, EngineKind, OverlappingEngine, Unavailable
from model.runtime.engines.loading import choose_devices, computes_on_cpu, why_no_cuda_engine
from model.runtime.engines.precision import choose_precision, load_in, why_half, why_precision
from model.runtime.kernels import masks, overlaps, regions
from model.runtime.predict import WarmUp, warm_up
from service.models.background import in_background
from service.models.catalog import Catalog, Fingerprint, ServedModel
from service.models.seen import Versions, limited
from service.observability.memory import give_freed_memory_back
from service.scheduling.waiting import Lane
from service.settings.settings import InvalidSettingsError, Settings

GPU_BATCH_SIZE = 8
CPU_BATCH_SIZE = 1
INSTEAD_OF_A_SHARE: Final = "'cpu', or name devices that can be used (auto means every GPU that the driver sees)"
"""Of a device that was dealt to one of several processes: nobody may have named it."""

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """A version that cannot be served; the message says why, in one line."""


class Loader:
    """Makes served models of the repository's versions. Its methods may run on any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._repository = Repository(settings.models, settings.trusted_keys)
        self._why_no_cuda = why_no_cuda_engine(settings.device) if settings.engine == "auto" else None
        # Where the engine is chosen for each bundle, a GPU is the cuda engine's or ONNX Runtime's.
        kind = "onnx" if self._why_no_cuda is not None else "cuda" if settings.engine == "auto" else settings.engine
        self._kind: EngineKind = kind
        instead = INSTEAD if settings.processes == 1 else INSTEAD_OF_A_SHARE
        self._devices = choose_devices(settings.device, kind, instead)
        self._on_cpu = all(computes_on_cpu(device, kind) for device in self._devices)
        self.place: tuple[int, int] | None = None
        """Device and inode of the repository's folder when models were last seen in it."""

    def look(self) -> Versions:
        """The versions of every model that are there now, rising.

        Raises RepositoryError, BundleError or OSError, also when the folder is empty and another than it was: what a
        volume that is not mounted looks like.
        """
        found = self._repository.models()
        status = self._settings.models.stat()
        place = (status.st_dev, status.st_ino)
        if found:
            self.place = place
        elif self.place not in (None, place):
            raise RepositoryError(f"{self._settings.models} is empty, and no longer the folder that it was")
        return found

    def fingerprint(self, name: str, version: int) -> Fingerprint:
        """Changes when the version's files do; empty when they cannot be listed."""
        folder = self._repository.folder(name, version)
        try:
            return tuple(sorted((file.name, *_stamp(file)) for file in folder.iterdir()))
        except OSError:
            return ()

    def load(self, name: str, version: int) -> ServedModel:
        """Check a version's files, start its engines and warm them up. Raises RefusedError."""
        engines: list[Engine] = []
        fingerprint = self.fingerprint(name, version)  # before they are read
        limits = self._settings.limits(name)
        with _refusing(f"{name}/{version}", engines):
            bundle = self._repository.get(name, version)
            chosen, precision, precision_why = self._choose(bundle)
            for device in self._devices:
                engines.append(self._start(bundle, chosen.kind, precision, device))
        size = limits.max_batch_size
        if size == "auto":
            size = CPU_BATCH_SIZE if all(engine.device == "cpu" for engine in engines) else GPU_BATCH_SIZE
        at_once = min(engine.depth if isinstance(engine, OverlappingEngine) else 1 for engine in engines)
        lane = Lane(name, size, limits.max_queue_delay_ms / 1e3, version=version, at_once=at_once)
        model = ServedModel.of(bundle.manifest, engines, precision, lane, limits.max_queue_size)
        model.fingerprint = fingerprint
        model.engine_why, model.precision_why = chosen.why, precision_why
        return model

    def start_engine(self, model: ServedModel, index: int) -> Engine:
        """Another engine as the model's one of this index, warmed up. Raises RefusedError, also when the version's
        files are no longer those that the model was loaded from.
        """
        engines: list[Engine] = []
        with _refusing(str(model), engines):
            bundle = self._repository.get(model.name, model.version)
            if bundle.manifest != model.manifest:
                raise BundleError(f"{bundle.path} was changed after it was loaded")
            kind = self._choose(bundle)[0].kind
            engines.append(self._start(bundle, kind, model.precision, model.devices[index]))
        return engines[0]

    def _start(self, bundle: Bundle, kind: EngineKind, precision: Precision, device: str) -> Engine:
        """A warm engine."""
        size = self._settings.limits(bundle.manifest.name).max_batch_size
        engine = load_in(precision, bundle, kind, device, self._threads(), GPU_BATCH_SIZE if size == "auto" else size)
        give_freed_memory_back()  # what loading took for a while; what computing takes is kept for the first image
        try:
            self._warm_up(engine, bundle.manifest)
        except BaseException:
            engine.close()
            raise
        return engine

    def still_holds(self, model: ServedModel) -> bool:
        """Whether the version's files are, byte for byte, those that the model was loaded from. Reads all of them."""
        try:
            return self._repository.get(model.name, model.version).manifest == model.manifest
        except (BundleError, RepositoryError, OSError):
            return False

    def _warm_up(self, engine: Engine, manifest: Manifest) -> None:
        choice = self._settings.warm_up
        warm_up(engine, manifest.preprocessing, warmed_up(engine) if choice == "auto" else choice)

    def _choose(self, bundle: Bundle) -> tuple[ChosenEngine, Precision, str]:
        """One engine and precision for all devices, with why the latter: an answer must not depend on which of them is
        free. Raises Unavailable."""
        wanted, chosen = self._settings.precision, ChosenEngine(self._kind)
        if self._settings.engine == "auto":
            chosen = choose_engine(wanted, bundle, on_cpu=self._on_cpu, why_no_cuda=self._why_no_cuda)
            if chosen.kind == "cuda" and not self._settings.names_precision:
                wanted, chosen = "auto", replace(chosen, why=f"{chosen.why}, in {why_half(bundle.manifest)}")
        precision = choose_precision(wanted, bundle, chosen.kind, on_cpu=self._on_cpu)
        why = ""
        if self._settings.precision == "auto" and self._on_cpu:
            why = why_precision(bundle, precision, chosen.kind)
        if chosen.kind != self._kind:
            name, version = bundle.manifest.name, bundle.manifest.version
            logger.info("%s/%d runs in %s, %s", name, version, chosen.kind, chosen.why)
        return chosen, precision, why

    def _threads(self) -> int | None:
        if self._settings.engine_threads != "auto":
            return self._settings.engine_threads
        on_cpu = self._devices.count("cpu")
        return max(1, usable_cores() // on_cpu) if on_cpu > 1 else None


def warmed_up(engine: Engine) -> WarmUp:
    """Which sizes an engine computes before it is ready where nobody says it."""
    if engine.device == "cpu" or isinstance(engine, OverlappingEngine):
        return "one"
    # On a GPU ONNX Runtime plans convolutions anew whenever the size changes, and keeps no plan for when it comes again
    # (microsoft/onnxruntime#23006): to run them all would take minutes, and spare nobody anything.
    return "largest" if engine.name == "onnx" else "every-bucket"


def load_first(
    settings: Settings, say: Callable[[str], None] = lambda line: None, seen: Versions | None = None
) -> Catalog:
    """What is needed to be ready: of every model the pinned version, else the newest that can be served.

    `say` is told what takes time, before it does. `seen`: look no further than others have.

    Raises:
        InvalidSettingsError: nothing is there, or the settings name a model, a version, a device or an engine that is
            not, or cannot be had here.
        RefusedError: the default model has no version that can be served, or not the one that it is pinned to, or
            nothing says its name. Other models that have none are reported.
    """
    loader, found, default = _look(settings, seen)
    _check_versions("--versions", settings, found, settings.versions.items())
    aliases = settings.aliases(default)
    _check_versions("--model-aliases", settings, found, aliases.values())
    if taken := sorted(aliases.keys() & found.keys()):
        raise InvalidSettingsError(f"--model-aliases: {settings.models} has a model {taken[0]}; choose another name")
    kernels = in_background(_warm_up_kernels)  # it needs another core while an engine reads its weights
    catalog = Catalog(default)
    catalog.place = loader.place
    catalog.pins.update(settings.versions)
    catalog.aliases = aliases
    for name, versions in found.items():
        pin = settings.versions.get(name)
        _load_best(loader, catalog, name, versions[::-1] if pin is None else (pin,), say)
        for version in sorted(catalog.held(name)):
            if not catalog.serves(name, version) and (name, version) not in catalog.refused:
                _load_best(loader, catalog, name, (version,), say)
    if not kernels.done():
        say("preparing kernels; where none are kept they are compiled, once")
    kernels.result()
    return catalog


def load_one(settings: Settings, version: int | None, say: Callable[[str], None]) -> Catalog:
    """The default model alone: this version of it, else the one that it is pinned to, else the newest that can be
    served. Raises as `load_first`.
    """
    loader, found, name = _look(settings)
    pins = {**settings.versions, **({} if version is None else {name: version})}
    _check_versions("--versions" if version is None else "--version", settings, found, pins.items())
    kernels = in_background(_warm_up_kernels)
    catalog = Catalog(name)
    _load_best(loader, catalog, name, (pins[name],) if name in pins else found[name][::-1], say)
    kernels.result()
    return catalog


def _look(settings: Settings, seen: Versions | None = None) -> tuple[Loader, Versions, str]:
    """What there is, and the default model. Raises InvalidSettingsError and RefusedError."""
    try:
        loader = Loader(settings)
    except Unavailable as error:
        raise InvalidSettingsError(str(error)) from error
    try:
        found = limited(loader.look(), seen)
    except (RepositoryError, OSError) as error:
        raise InvalidSettingsError(f"--models: {error}") from None
    except BundleError as error:  # of one bundle, or one model's folder, nobody knows the name
        raise RefusedError(_one_line(error)) from error
    return loader, found, _default_model(settings, list(found))


def _warm_up_kernels() -> None:
    masks.warm_up()
    overlaps.warm_up()
    regions.warm_up()


def _load_best(
    loader: Loader, catalog: Catalog, name: str, candidates: tuple[int, ...], say: Callable[[str], None]
) -> None:
    for version in candidates:
        say(f"loading {name}/{version}")
        try:
            catalog.add(loader.load(name, version))
        except RefusedError as error:
            catalog.refused[name, version] = str(error)
            if name == catalog.default_name and version == candidates[-1]:
                if isinstance(error.__cause__, Unavailable):
                    raise InvalidSettingsError(str(error)) from error
                raise
            logger.error("%s/%d is not served: %s", name, version, error)
        else:
            return


def _check_versions(flag: str, settings: Settings, found: Versions, wanted: Iterable[tuple[str, int | None]]) -> None:
    for name, version in wanted:
        if name not in found:
            raise InvalidSettingsError(f"{flag}: {settings.models} has no {name}; it has {', '.join(found)}")
        if version is not None and version not in found[name]:
            there = ", ".join(map(str, found[name]))
            raise InvalidSettingsError(f"{flag}: {settings.models} has no {name}/{version}; of {name} it has {there}")


def _default_model(settings: Settings, names: list[str]) -> str:
    if not names:
        raise InvalidSettingsError(
            f"--models: {settings.models} holds no bundle; expected NAME/VERSION/manifest.json, or the folder of one "
            "model or of one bundle"
        )
    if settings.model is None and len(names) > 1:
        raise InvalidSettingsError(f"--model: say which of {', '.join(names)} answers when a request names none")
    if settings.model is not None and settings.model not in names:
        raise InvalidSettingsError(f"--model: {settings.models} has no {settings.model}; it has {', '.join(names)}")
    if unknown := sorted(set(settings.per_model) - set(names)):
        raise InvalidSettingsError(
            f"--per-model: {settings.models} has no {', '.join(unknown)}; it has {', '.join(names)}"
        )
    return settings.model or names[0]


@contextmanager
def _refusing(version: str, engines: list[Engine]) -> Iterator[None]:
    """Closes the engines that were started, and makes a RefusedError of whatever fails."""
    try:
        yield
    except Exception as error:  # a network that loads but cannot run raises whatever its engine does
        for engine in engines:
            engine.close()
        if isinstance(error, BundleError | RepositoryError | EngineError | OSError):
            raise RefusedError(_one_line(error)) from error
        raise RefusedError(f"{version} failed its warm-up: {_one_line(error)}") from error


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _one_line(error: Exception) -> str:
    """The message of an error that was foreseen, the type too of one that was not."""
    message = " ".join(str(error).split())
    return message if type(error).__module__.startswith("model.") else f"{type(error).__name__}: {message}"
