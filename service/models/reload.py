"""Keeps what is served in step with the repository: loads new versions beside the old ones, retires what is too old.

A version is loaded and warmed on a thread of its own while the others answer. Then it takes over: a request that comes
in from that moment gets it, and those that are in keep theirs. Nothing is ever stopped for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from model.runtime.bundles.repository import RepositoryError
from service.http.problems import NO_SUCH_MODEL, Problem
from service.models.background import in_background
from service.models.catalog import Catalog
from service.models.loading import Loader, RefusedError
from service.settings.settings import Settings

Result = TypeVar("Result")
Fingerprint = tuple[tuple[str, int, int], ...]

logger = logging.getLogger(__name__)


class Reloader:
    """Belongs to the event loop's thread; one look at the repository at a time."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._loader = Loader(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._one_at_a_time = asyncio.Lock()
        self._unloaded: set[str] = set()
        self._refused: dict[tuple[str, int], Fingerprint] = {}
        catalog.dispose = lambda model: in_background(model.close)
        self.on_load: Callable[[str, bool], None] = lambda name, served: None
        """Told the name, and whether the version is served now."""

    async def run(self) -> None:
        """Look now, and then again and again, until cancelled."""
        refused = tuple(self._catalog.refused)
        # What the start has refused need not be tried again as it is.
        self._refused |= await self._in_thread(lambda: {key: self._loader.fingerprint(*key) for key in refused})
        while True:
            try:
                await self.reload()
            except Exception:  # the next look may go well, and a server without reloading would go unnoticed
                logger.exception("looking for new versions failed")
            if not self._settings.poll_interval_ms:
                return
            await asyncio.sleep(self._settings.poll_interval_ms / 1e3)

    async def reload(self, name: str | None = None) -> None:
        """Look now: at everything, or at one model whose refused versions are then tried again.

        Raises Problem: there is no such model, neither in the repository nor served.
        """
        async with self._one_at_a_time:
            try:
                found = await self._in_thread(self._loader.look)
            except (RepositoryError, OSError) as error:
                # A volume that is gone for a moment must not take down what is served.
                logger.error("the repository cannot be read, what is served stays: %s", error)
                return
            if name is None:
                names = {*found, *self._catalog.served_names} - self._unloaded
            else:
                if name not in found and name not in self._catalog.served_names:
                    there = ", ".join(sorted(found)) or "none"
                    raise Problem(NO_SUCH_MODEL, f"There is no model {name} in the repository; it has {there}.")
                self._unloaded.discard(name)
                self._refused = {key: value for key, value in self._refused.items() if key[0] != name}
                names = {name}
            for one in sorted(names):
                await self._update(one, found.get(one, ()))

    async def unload(self, name: str) -> None:
        """Stop serving a model until it is asked for by `reload(name)`. Raises Problem: it is not served."""
        async with self._one_at_a_time:
            served = [model for model in self._catalog.served if model.name == name]
            if not served:
                raise Problem(NO_SUCH_MODEL, f"There is no model {name}; this server has {self._names()}.")
            self._unloaded.add(name)
            for model in served:
                self._catalog.retire(model)
            logger.info("%s is unloaded", name)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _update(self, name: str, versions: tuple[int, ...]) -> None:
        """Serve the newest `keep_versions` of these that can be served, and nothing else of that name."""
        if not versions:
            logger.error("the repository has lost %s, what is served stays", name)
            return
        catalog = self._catalog
        for key in [key for key in catalog.refused if key[0] == name and key[1] not in versions]:
            del catalog.refused[key]
        keep = self._settings.limits(name).keep_versions
        kept = []
        for version in reversed(versions):
            if await self._is_served(name, version):
                kept.append(version)
            if len(kept) == keep:
                break
        if not kept:
            return
        for model in [model for model in catalog.served if model.name == name and model.version not in kept]:
            catalog.retire(model)
            logger.info("%s is retired", model)

    async def _is_served(self, name: str, version: int) -> bool:
        """Whether it is, after loading it if need be."""
        catalog, key = self._catalog, (name, version)
        if any((model.name, model.version) == key for model in catalog.served):
            return True
        try:
            fingerprint = await self._in_thread(lambda: self._loader.fingerprint(name, version))
            if self._refused.get(key) == fingerprint:
                return False
            self._refused[key] = fingerprint
            catalog.loading.add(key)
            model = await self._in_thread(lambda: self._loader.load(name, version))
        except (RefusedError, OSError) as error:
            catalog.refused[key] = str(error)
            self.on_load(name, False)
            logger.error("%s/%d is refused: %s", name, version, error)
            return False
        finally:
            catalog.loading.discard(key)
        del self._refused[key]
        catalog.refused.pop(key, None)
        catalog.add(model)
        self.on_load(name, True)
        logger.info("%s is served", model)
        return True

    def _names(self) -> str:
        return ", ".join(self._catalog.served_names) or "none"

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
