"""The models that are served, found by name and version. `loading` makes them, `reload` keeps them up to date."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.manifest import Manifest, Precision
from model.runtime.engines.engine import Engine, OverlappingEngine
from model.runtime.images.picture import Size
from service.http.problems import MODEL_REFUSED, NO_SUCH_MODEL, NOTHING_SERVED, Problem
from service.scheduling.waiting import Lane

Fingerprint = tuple[tuple[str, int, int], ...]
"""Of files: name, bytes, nanoseconds of the last change."""

RETRY_NOTHING_SERVED = 5
"""Seconds in `Retry-After`."""


@dataclass(slots=True, eq=False)
class ServedModel:
    """One version of one model with an engine on each device, all in one precision, and its limits in the batcher.

    `label_names` is indexed by label id (0 is the background); `label_ids` is the way back, where a name may stand for
    several ids (COCO's 91 labels name ten of them "N/A"). `score_thresholds` are the labels' own, float32 by label id,
    if the manifest has any. `leases` counts the requests that use it. `fingerprint` is that of the files that it was
    loaded from. `engine_why` is why the setting `auto` took its engine, and its precision where it chose that too;
    empty where the engine was asked for. `precision_why` is why `precision=auto` took its precision on a CPU.
    `answered_again_before` is what engines that hang had counted, less what all had counted before they answered
    anybody.
    """

    manifest: Manifest
    engines: tuple[Engine, ...]
    precision: Precision
    lane: Lane
    max_queue_size: int
    label_names: tuple[str, ...]
    label_ids: Mapping[str, tuple[int, ...]]
    score_thresholds: NDArray[np.float32] | None = None
    leases: int = 0
    fingerprint: Fingerprint = ()
    engine_why: str = ""
    precision_why: str = ""
    answered_again_before: Counts[str] = field(default_factory=Counts)

    @classmethod
    def of(
        cls, manifest: Manifest, engines: Sequence[Engine], precision: Precision, lane: Lane, max_queue_size: int
    ) -> ServedModel:
        names = ("", *manifest.class_names)
        ids: dict[str, tuple[int, ...]] = {}
        for label_id, name in enumerate(manifest.class_names, start=1):
            ids[name] = (*ids.get(name, ()), label_id)
        thresholds = manifest.score_thresholds if manifest.defaults.score_thresholds else None
        model = cls(manifest, tuple(engines), precision, lane, max_queue_size, names, ids, thresholds)
        for engine in engines:
            model._count_from_now(engine)
        return model

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(engine.device for engine in self.engines)

    @property
    def engine(self) -> str:
        """The engine's name, with why it was chosen."""
        name = self.engines[0].name
        return f"{name}, {self.engine_why}" if self.engine_why else name

    def bucket(self, size: Size) -> Size:
        """Images of this padded size share batches with those of which it says the same."""
        engine = self.engines[0]
        return engine.bucket(size) if isinstance(engine, OverlappingEngine) else size

    @property
    def answered_again(self) -> Counts[str]:
        """Images that its engines computed a second time, by reason."""
        images = Counts(self.answered_again_before)
        for engine in self.engines:
            if isinstance(engine, OverlappingEngine):
                images.update(engine.answered_again)  # a sum of counters would leave zeros out
        return images

    def replace(self, index: int, engine: Engine) -> None:
        """Give it another engine in the place of one that hangs. What that one counted is kept."""
        hangs = self.engines[index]
        if isinstance(hangs, OverlappingEngine):
            self.answered_again_before.update(hangs.answered_again)
        self._count_from_now(engine)
        self.engines = (*self.engines[:index], engine, *self.engines[index + 1 :])

    def _count_from_now(self, engine: Engine) -> None:
        """Images that it computed to be checked and warmed up were nobody's."""
        if isinstance(engine, OverlappingEngine):
            self.answered_again_before.subtract(engine.answered_again)

    def close(self) -> None:
        """Free the networks. A run that has begun still ends."""
        for engine in self.engines:
            engine.close()

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class VersionState:
    """What became of one version; `reason` says why it is not served, or why it still is."""

    version: int
    state: Literal["served", "loading", "refused", "retired"]
    reason: str = ""


class Catalog:
    """What is served now. Belongs to the event loop's thread.

    A request holds a lease on the one version that answers it, so that a newer version can take over at any moment:
    what is retired is closed when its last lease ends.

    `pins` are the versions that answer in place of the newest, by name; `aliases` are other names of models, or of one
    version. Reasons are by name and version: `refused` and `retired` say why one is not served, `outlived` why one is
    whose folder is gone, `changed` that the files of one are no longer those that are served.
    """

    def __init__(self, default: str, served: Sequence[ServedModel] = ()) -> None:
        self.default_name = default
        self.place: tuple[int, int] | None = None
        """The folder that it was loaded from: see `Loader`."""
        self.loading: set[tuple[str, int]] = set()
        self.refused: dict[tuple[str, int], str] = {}
        self.retired: dict[tuple[str, int], str] = {}
        self.outlived: dict[tuple[str, int], str] = {}
        self.changed: dict[tuple[str, int], str] = {}
        self.pins: dict[str, int] = {}
        self.aliases: Mapping[str, tuple[str, int | None]] = {}
        self.dispose: Callable[[ServedModel], object] = ServedModel.close
        """How a retired model is closed; freeing a network takes milliseconds, which the event loop has not."""
        self._served = {(model.name, model.version): model for model in served}
        self._closing: list[ServedModel] = []

    @property
    def served(self) -> tuple[ServedModel, ...]:
        """Every version, by name and falling version."""
        return tuple(sorted(self._served.values(), key=lambda model: (model.name, -model.version)))

    @property
    def answering(self) -> tuple[ServedModel, ...]:
        """The version of every model that answers when none is named, by name; none of a model whose pin is broken."""
        found = (self._get(name, None) for name in self.served_names)
        return tuple(model for model in found if model is not None)

    @property
    def known_names(self) -> tuple[str, ...]:
        """Also of models of which nothing is served."""
        return tuple(sorted({name for name, _ in (*self._served, *self.loading, *self.refused, *self.retired)}))

    @property
    def served_names(self) -> tuple[str, ...]:
        return tuple(sorted({name for name, _ in self._served}))

    def find(self, name: str | None = None, version: int | None = None) -> ServedModel:
        """The version that is named; if none is, the one that is pinned or else the newest.

        Raises Problem: no such model (naming what there is), or nothing served at all.
        """
        self.check_any()
        name, version = self._resolve(self.default_name if name is None else name, version)
        model = self._get(name, version)
        if model is not None:
            return model
        served = ", ".join(map(str, self.served))
        raise Problem(NO_SUCH_MODEL, f"There is no model {self._missing(name, version)}; this server has {served}.")

    def check_any(self) -> None:
        """Raise a Problem if nothing at all is served."""
        if not self._served:
            raise Problem(NOTHING_SERVED, "No model is loaded; GET /models says why.", RETRY_NOTHING_SERVED)

    @property
    def alias_targets(self) -> dict[str, str]:
        """NAME or NAME:VERSION, by alias."""
        return {alias: of if fixed is None else f"{of}:{fixed}" for alias, (of, fixed) in self.aliases.items()}

    def is_fixed(self, name: str) -> bool:
        """Whether it is an alias of one version."""
        return self.aliases.get(name, (name, None))[1] is not None

    def held(self, name: str) -> set[int]:
        """Versions that are to stay loaded however old they are: pinned, or with an alias."""
        held = {version for of, version in self.aliases.values() if of == name and version is not None}
        return held | {self.pins[name]} if name in self.pins else held

    def _resolve(self, name: str, version: int | None) -> tuple[str, int | None]:
        of, fixed = self.aliases.get(name, (name, None))
        if fixed is None or version == fixed:
            return of, version
        if version is None:
            return of, fixed
        raise Problem(NO_SUCH_MODEL, f"{name} is an alias of {of}/{fixed}; ask {of} for version {version}.")

    def _get(self, name: str, version: int | None) -> ServedModel | None:
        wanted = self.pins.get(name) if version is None else version
        return next((one for one in self.served if one.name == name and wanted in (None, one.version)), None)

    def _missing(self, name: str, version: int | None) -> str:
        """What is asked for and not served, with the reason if one is known."""
        pinned = version is None and name in self.pins and name in self.served_names
        version = self.pins[name] if pinned else version
        if version is None:
            return name
        why = self.refused.get((name, version)) or self.retired.get((name, version))
        wanted = f"{name}/{version}, to which {name} is pinned" if pinned else f"{name}/{version}"
        return f"{wanted} ({why})" if why else wanted

    def check_newest(self, name: str) -> None:
        """Raise a Problem if the newest version that there is was refused, or changed while it was served."""
        newest = next(iter(self.versions(name)), None)
        if newest is not None and (newest.state == "refused" or (name, newest.version) in self.changed):
            raise Problem(MODEL_REFUSED, f"{name}/{newest.version} is refused: {newest.reason}")

    @contextmanager
    def lease(self, name: str | None = None, version: int | None = None) -> Iterator[ServedModel]:
        """Hold a model for the time of a request. Raises as `find` does."""
        model = self.find(name, version)
        model.leases += 1
        try:
            yield model
        finally:
            model.leases -= 1
            self._close_unused()

    def versions(self, name: str) -> list[VersionState]:
        """What is known of a model's versions, the newest first."""
        remarks = self.changed | self.outlived
        states = [
            VersionState(model.version, "served", remarks.get((name, model.version), ""))
            for model in self.served
            if model.name == name
        ]
        states += [VersionState(version, "loading") for of, version in self.loading if of == name]
        states += [VersionState(number, "refused", why) for (of, number), why in self.refused.items() if of == name]
        there = {state.version for state in states}
        states += [
            VersionState(number, "retired", why)
            for (of, number), why in self.retired.items()
            if of == name and number not in there
        ]
        return sorted(states, key=lambda state: -state.version)

    def serves(self, name: str, version: int) -> bool:
        return (name, version) in self._served

    def add(self, model: ServedModel) -> None:
        """From now on, new requests get it if it is the newest of its name, or pinned."""
        self._served[model.name, model.version] = model

    def retire(self, model: ServedModel) -> None:
        """New requests don't get it any more; those that have it are answered by it."""
        del self._served[model.name, model.version]
        self._closing.append(model)
        self._close_unused()

    def close(self) -> None:
        """Free everything."""
        for model in (*self._served.values(), *self._closing):
            model.close()

    def _close_unused(self) -> None:
        for model in [model for model in self._closing if not model.leases]:
            self._closing.remove(model)
            self.dispose(model)
