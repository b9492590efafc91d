"""Keeps what is served in step with the repository: loads new versions beside the old ones, retires what is too old.

A version is loaded and warmed on a thread of its own while the others answer. Then it takes over: a request that comes
in from that moment gets it, and those that are in keep theirs. Nothing is ever stopped for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from model.runtime.bundles.bundle import BundleError
from model.runtime.bundles.repository import RepositoryError
from service.http.problems import MODEL_REFUSED, NO_SUCH_MODEL, REPOSITORY_UNREADABLE, VERSION_PINNED, Problem
from service.models.background import in_background
from service.models.catalog import Catalog, Fingerprint, ServedModel
from service.models.loading import Loader, RefusedError
from service.models.seen import Versions, looking_within, seen_by_this_task
from service.observability.memory import give_freed_memory_back
from service.settings.settings import Settings

Result = TypeVar("Result")

UNLOADED = "it was unloaded; load or promote it to serve it again"
OUTDATED = "it is older than the newest keep_versions; promote it to serve it again"
REMOVED = "its folder was removed from the repository"
CHANGED = "its files were changed after it was loaded, and it answers as it was loaded; publish a new version instead"
MOST_GONE = 16
"""Versions of a model without a folder that are still listed."""
RETRY_UNREADABLE = 5
"""Seconds in `Retry-After`."""

logger = logging.getLogger(__name__)


class Reloader:
    """Belongs to the event loop's thread; one look at the repository at a time."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._loader = Loader(settings)
        self._loader.place = catalog.place  # a volume may be gone before the first look
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._one_at_a_time = asyncio.Lock()
        self._unloaded: set[str] = set()
        self._set_aside: set[tuple[str, int]] = set()  # single versions that were unloaded
        self._warned: set[tuple[str, int]] = set()
        self._is_blind = False
        self._refused: dict[tuple[str, int], Fingerprint] = {}
        self._changed: dict[tuple[str, int], Fingerprint] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._has_looked = False
        catalog.dispose = lambda model: in_background(partial(_free, model))
        self.on_load: Callable[[str, int, bool], None] = lambda name, version, served: None
        """Told the name, the version and whether it is served now."""

    @property
    def seen(self) -> Versions | None:
        """The versions of every model that there were when it was last looked at; None before all were."""
        return {name: versions for name, versions in self._seen.items() if versions} if self._has_looked else None

    async def run(self, seen: Versions | None = None) -> None:
        """Look now, at what others have `seen` or at everything, and then again and again, until cancelled."""
        refused = tuple(self._catalog.refused)
        # What the start has refused need not be tried again as it is.
        self._refused |= await self._in_thread(lambda: {key: self._loader.fingerprint(*key) for key in refused})
        while True:
            try:
                with looking_within(seen):
                    await self.reload()
            except Exception:  # the next look may go well, and a server without reloading would go unnoticed
                logger.exception("looking for new versions failed")
            if not self._settings.poll_interval_ms:
                return
            seen = None
            await asyncio.sleep(self._settings.poll_interval_ms / 1e3)

    async def reload(self, name: str | None = None, version: int | None = None) -> bool:
        """Look now: at everything, or at one model whose refused versions are then tried again.

        A model that was unloaded is loaded, or only the `version` of it that is named. Returns whether anything was.

        Raises Problem: the repository cannot be read, or has no such model; never when it looks at everything.
        """
        async with self._one_at_a_time:
            if name is None:
                try:
                    found = await self._look()
                except Problem:  # logged; a volume that is gone for a moment must not take down what is served
                    return False
                names = {*found, *self._catalog.known_names} - (self._unloaded & found.keys())
                loaded = any([await self._update(one, found.get(one, ())) for one in sorted(names)])
                self._has_looked = True
                return loaded
            found = await self._look()
            versions = found.get(name, ())
            if version is not None and name in self._unloaded:
                self._set_aside |= {(name, other) for other in versions if other != version}
            self._unloaded.discard(name)
            self._set_aside -= {key for key in self._set_aside if key[0] == name and version in (None, key[1])}
            self._refused = {key: value for key, value in self._refused.items() if key[0] != name}
            loaded = await self._update(name, versions)
            if not versions:
                raise Problem(NO_SUCH_MODEL, f"There is no model {name} in the repository; it has {_list(found)}.")
            return loaded

    async def renew(self, name: str, version: int | None = None) -> None:
        """As `reload` of one model. Raises Problem also where nothing was loaded because the newest version is refused,
        and where the version that is named is not served then.
        """
        loaded = await self.reload(name, version)
        if version is not None:
            self._catalog.find(name, version)
        elif not loaded:
            self._catalog.check_newest(name)

    async def promote(self, name: str, version: int) -> None:
        """Pin a version: from now on it answers when none is named, whatever else is published. It is loaded first.

        Raises Problem: there is no such version, or it cannot be served; then everything stays as it was.
        """
        catalog = self._catalog
        async with self._one_at_a_time:
            found = await self._look()
            versions = found.get(name, ())
            if version not in versions and not catalog.serves(name, version):
                there = f"of {name} it has {_list(versions)}" if versions else f"it has {_list(found)}"
                raise Problem(NO_SUCH_MODEL, f"There is no model {name}/{version} in the repository; {there}.")
            self._refused.pop((name, version), None)
            if not await self._is_served(name, version):
                raise Problem(MODEL_REFUSED, f"{name}/{version} is refused: {catalog.refused[name, version]}")
            if name in self._unloaded:
                self._set_aside |= {(name, other) for other in versions}
            self._unloaded.discard(name)
            self._set_aside.discard((name, version))
            catalog.pins[name] = version
            logger.info("%s is pinned to version %d", name, version)
            await self._update(name, versions)

    async def unpin(self, name: str) -> None:
        """Let the newest version answer again. Raises Problem: there is no such model."""
        async with self._one_at_a_time:
            found = await self._look()
            if name not in self._catalog.known_names:
                raise Problem(NO_SUCH_MODEL, f"There is no model {name}; this server has {self._names()}.")
            if self._catalog.pins.pop(name, None) is not None:
                logger.info("%s follows its newest version", name)
            if name not in self._unloaded:
                await self._update(name, found.get(name, ()))

    async def unload(self, name: str, version: int | None = None) -> None:
        """Stop serving a model, or one version of it, until it is asked for by `reload` or `promote`.

        If the version was the newest the one before takes over, and is loaded first if need be.

        Raises Problem: it is not served, or the version is pinned.
        """
        catalog = self._catalog
        async with self._one_at_a_time:
            if version is not None:
                if name in catalog.aliases:
                    raise Problem(NO_SUCH_MODEL, f"{name} is an alias; there is {self._names()} to unload.")
                model = catalog.find(name, version)
                if version in catalog.held(name):
                    raise Problem(
                        VERSION_PINNED,
                        f"{model} is pinned or has an alias; promote another version, unpin {name} or change "
                        "model_aliases first.",
                    )
                self._set_aside.add((name, version))
                with suppress(Problem):  # an unreadable repository, which is logged, has nothing to take its place
                    await self._update(name, (await self._look()).get(name, ()))
                if catalog.serves(name, version):
                    self._retire(model, UNLOADED)
                return
            served = [model for model in catalog.served if model.name == name]
            if not served:
                raise Problem(NO_SUCH_MODEL, f"There is no model {name}; this server has {self._names()}.")
            self._unloaded.add(name)
            for model in served:
                self._retire(model, UNLOADED)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> Versions:
        """Raises Problem: the repository cannot be read. That is logged when it begins."""
        try:
            found = await self._in_thread(self._loader.look)
        except (RepositoryError, BundleError, OSError) as error:
            if not self._is_blind:
                logger.error("the repository cannot be read, what is served stays: %s", error)
            self._is_blind = True
            detail = f"The repository cannot be read, what is served stays: {error}"
            raise Problem(REPOSITORY_UNREADABLE, detail, RETRY_UNREADABLE) from error
        self._is_blind = False
        return seen_by_this_task(found)

    async def _update(self, name: str, versions: tuple[int, ...]) -> bool:
        """Serve the newest `keep_versions` of these that can be served, the pinned one, and nothing else of that name.

        One that was unloaded has none of that room if it is newer than all of them, for something should answer; of an
        older one the room stays empty, for it was meant to be free. Returns whether one was loaded.
        """
        catalog = self._catalog
        self._seen[name] = versions
        for key in [key for key in catalog.refused if key[0] == name and key[1] not in versions]:
            del catalog.refused[key]
        room = self._settings.limits(name).keep_versions
        before = {model.version for model in catalog.served if model.name == name}
        kept = set()
        for version in reversed(versions):
            if not room and version not in catalog.held(name):
                continue
            is_set_aside = (name, version) in self._set_aside
            if not is_set_aside and await self._is_served(name, version):
                kept.add(version)
            room -= bool(room and kept) and (is_set_aside or version in kept)
        self._tidy(name, versions, kept)
        await self._look_for_changes(name)
        return bool(kept - before)

    def _tidy(self, name: str, versions: tuple[int, ...], kept: set[int]) -> None:
        """Retire what is served and not to be kept, and note why each version is where it is."""
        catalog = self._catalog
        catalog.outlived = {key: why for key, why in catalog.outlived.items() if key[0] != name}
        for model in [model for model in catalog.served if model.name == name and model.version not in kept]:
            key = (name, model.version)
            if versions and model.version in catalog.held(name):
                self._outlive(key, "its folder is gone; it stays because it is pinned or has an alias")
            elif versions and not kept and key not in self._set_aside:
                self._outlive(key, "it stays because nothing newer can be served")
            else:
                self._retire(model, self._why_retired(key, versions))
        if not versions:  # who comes under this name again is another model
            self._unloaded.discard(name)
            self._set_aside = {key for key in self._set_aside if key[0] != name}
            catalog.pins.pop(name, None)
            catalog.pins |= {of: pin for of, pin in self._settings.versions.items() if of == name}
        gone = sorted(of for of in catalog.retired if of[0] == name and of[1] not in versions)
        for key in gone[:-MOST_GONE]:
            del catalog.retired[key]
        for key in gone[-MOST_GONE:]:
            catalog.retired[key] = REMOVED
        for version in versions:
            key = (name, version)
            if version in kept or key in catalog.refused or key in catalog.outlived:
                catalog.retired.pop(key, None)
            else:
                catalog.retired[key] = self._why_retired(key, versions)

    def _why_retired(self, key: tuple[str, int], versions: tuple[int, ...]) -> str:
        if key[1] not in versions:
            return REMOVED
        return UNLOADED if key in self._set_aside else OUTDATED

    async def _look_for_changes(self, name: str) -> None:
        """Tell of served versions whose files are other ones now. Those that were copied anew only look so: what looks
        changed is read, once.
        """
        catalog = self._catalog
        for model in [model for model in catalog.served if model.name == name]:
            key = (name, model.version)
            fingerprint = await self._in_thread(partial(self._loader.fingerprint, *key))
            if fingerprint not in ((), model.fingerprint, self._changed.get(key)):
                if await self._in_thread(partial(self._loader.still_holds, model)):
                    model.fingerprint = fingerprint
                else:
                    self._changed[key] = fingerprint
                    logger.error("%s: %s", model, CHANGED)
            if fingerprint == model.fingerprint:
                self._changed.pop(key, None)
        self._changed = {key: seen for key, seen in self._changed.items() if catalog.serves(*key)}
        catalog.changed = dict.fromkeys(self._changed, CHANGED)

    def _retire(self, model: ServedModel, why: str) -> None:
        self._catalog.retired[model.name, model.version] = why
        self._catalog.retire(model)
        logger.info("%s is retired: %s", model, why)

    def _outlive(self, key: tuple[str, int], why: str) -> None:
        if key not in self._warned:
            logger.warning("%s/%d: %s", *key, why)
        self._warned.add(key)
        self._catalog.outlived[key] = why

    async def _is_served(self, name: str, version: int) -> bool:
        """Whether it is, after loading it if need be."""
        catalog, key = self._catalog, (name, version)
        if catalog.serves(name, version):
            return True
        try:
            fingerprint = await self._in_thread(lambda: self._loader.fingerprint(name, version))
            if self._refused.get(key) == fingerprint:
                return False
            self._refused[key] = fingerprint
            if name in catalog.aliases:
                raise RefusedError("its name is an alias of another model; rename one of them")
            catalog.loading.add(key)
            model = await self._in_thread(lambda: self._loader.load(name, version))
        except (RefusedError, OSError) as error:
            catalog.refused[key] = str(error)
            self.on_load(name, version, False)
            logger.error("%s/%d is refused: %s", name, version, error)
            return False
        finally:
            catalog.loading.discard(key)
        del self._refused[key]
        catalog.refused.pop(key, None)
        catalog.retired.pop(key, None)
        catalog.add(model)
        self.on_load(name, version, True)
        logger.info("%s is served", model)
        return True

    def _names(self) -> str:
        return _list(self._catalog.served_names)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _free(model: ServedModel) -> None:
    model.close()
    give_freed_memory_back()


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
