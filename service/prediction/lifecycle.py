"""The server's life: starting (models load beside the event loop), ready, draining, closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextvars import Context

from fastapi import Request

from model.runtime.engines.engine import DeviceLost
from service.models.catalog import Catalog, ServedModel
from service.models.changes import Changes
from service.models.reload import Reloader
from service.models.replacing import replace_engine
from service.models.seen import Versions
from service.observability.by_version import Deeds, Key
from service.observability.device_memory import read_memory
from service.observability.metrics import Metrics, Now, ServedInfo
from service.prediction.pipeline import Pipeline
from service.scheduling.gate import Gate, Phase, still_starting
from service.scheduling.priority import Priority
from service.settings.settings import Settings

logger = logging.getLogger(__name__)


class Lifecycle:
    """What the routes share: settings, gate, metrics and, once the models are loaded, the rest.

    In a group of processes `everywhere` changes what is served in all of them, `exposition` and `deeds` tell what all
    have counted, `turn` counts the processes before this one that have the same devices, and `seen` is what the others
    have seen of the repository when this one is started again. `lost` is why this process can compute no more, and
    `on_loss` is told it: whoever runs the process has to end it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.gate = Gate(settings.max_uploads)
        self.everywhere: Changes | None = None
        self.exposition: Callable[[], Awaitable[bytes]] = self._own_exposition
        self.deeds: Callable[[], Awaitable[Mapping[Key, Deeds]]] = self._own_deeds
        self.lost = ""
        self.on_loss: Callable[[str], None] = lambda reason: None
        self.turn = 0
        self.seen: Versions | None = None
        self._catalog: Catalog | None = None
        self._pipeline: Pipeline | None = None
        self._reloader: Reloader | None = None
        self._loading: asyncio.Task[Catalog] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._replacing: set[asyncio.Task[None]] = set()

    @property
    def catalog(self) -> Catalog:
        """Raises Problem while the models are still being loaded."""
        if self._catalog is None:
            raise still_starting()
        return self._catalog

    @property
    def pipeline(self) -> Pipeline:
        """Raises Problem while the models are still being loaded."""
        if self._pipeline is None:
            raise still_starting()
        return self._pipeline

    @property
    def reloader(self) -> Reloader:
        """Raises Problem while the models are still being loaded."""
        if self._reloader is None:
            raise still_starting()
        return self._reloader

    @property
    def changes(self) -> Changes:
        """What an administrator changes the served models by. Raises Problem while they are still being loaded."""
        return self.reloader if self.everywhere is None else self.everywhere

    def start(self, loading: Future[Catalog]) -> None:
        """Become ready as soon as the models are. Call on the event loop."""
        self._loading = asyncio.create_task(self._become_ready(loading))

    async def ready(self) -> Catalog:
        """Wait for the models. Raises what loading them raised."""
        assert self._loading is not None, "start first"
        return await asyncio.shield(self._loading)

    async def drain(self) -> None:
        """Refuse new requests, after the delay, and return when the accepted ones are answered, or cut off because they
        took too long.
        """
        if self._reloading is not None:
            self._reloading.cancel()
        if self.gate.phase is Phase.READY and self.settings.shutdown_delay_ms:
            await self.gate.leave(self.settings.shutdown_delay_ms / 1e3)
        if self._pipeline is not None:
            self._pipeline.hurry()
        await self.gate.drain(self.settings.drain_timeout_ms / 1e3)

    async def close(self) -> None:
        """Free threads and models."""
        for task in (self._loading, self._reloading, *self._replacing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(BaseException):
                    await task
        for part in (self._reloader, self._pipeline, self._catalog):
            if part is not None:
                part.close()

    async def _become_ready(self, loading: Future[Catalog]) -> Catalog:
        catalog = await asyncio.wrap_future(loading)
        self._catalog = catalog
        self._pipeline = pipeline = Pipeline(catalog, self.settings, self.metrics, self.turn)
        self._reloader = Reloader(catalog, self.settings)
        self._reloader.on_load = self.metrics.load
        self.gate.devices = pipeline.batcher.devices
        self.gate.seconds_per_image = lambda name: _seconds_per_image(catalog, name)
        pipeline.on_stall = lambda model, device: self._on_stall(catalog, pipeline, model, device)
        pipeline.on_loss = lambda model, device, error: self._on_loss(pipeline, model, device, error)
        self.metrics.watch(lambda: self._now(catalog, pipeline))
        if self.gate.phase is Phase.STARTING:
            self.gate.phase = Phase.READY
            self._reloading = asyncio.create_task(self._reloader.run(self.seen))
        return catalog

    def _on_stall(self, catalog: Catalog, pipeline: Pipeline, model: ServedModel, device: int) -> None:
        self.metrics.stall(model.name, pipeline.device_names[device])
        if pipeline.batcher.is_out and self.gate.phase is Phase.READY:
            self.gate.phase = Phase.RECOVERING

        async def replace() -> None:
            try:
                await replace_engine(catalog, self.settings, model, device)
            except DeviceLost as error:
                self._on_loss(pipeline, model, device, error)
                return
            pipeline.batcher.restore(device)
            if self.gate.phase is Phase.RECOVERING:
                self.gate.phase = Phase.READY

        task = asyncio.create_task(replace(), context=Context())  # it is about more than the request that hung
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    def _on_loss(self, pipeline: Pipeline, model: ServedModel, device: int, error: DeviceLost) -> None:
        """Nothing new comes in. What other devices have is still answered."""
        self.metrics.loss(model.name, pipeline.device_names[device])
        logger.error("a run of %s has lost its device: %s", model, error, exc_info=error)
        self.gate.phase = Phase.LOST
        if not self.lost:
            self.lost = str(error)
            self.on_loss(self.lost)

    async def _own_exposition(self) -> bytes:
        return self.metrics.render()

    async def _own_deeds(self) -> Mapping[Key, Deeds]:
        return self.metrics.by_version.deeds

    def _now(self, catalog: Catalog, pipeline: Pipeline) -> Now:
        batcher, answering = pipeline.batcher, catalog.answering
        depth = {(model.name, priority.value): 0 for model in catalog.served for priority in Priority}
        for model in catalog.served:
            for priority in Priority:
                depth[model.name, priority.value] += batcher.depth(model.lane, priority)
        return Now(
            queue_depth=depth,
            oldest_wait=batcher.oldest_wait(),
            in_flight=self.gate.in_flight,
            uploads=self.gate.uploads,
            stuck_threads=batcher.abandoned,
            busy_seconds={device: batcher.busy_seconds(index) for index, device in enumerate(pipeline.device_names)},
            memory_bytes=read_memory(pipeline.devices),
            answered_again={
                (model.name, str(model.version), reason): images
                for model in catalog.served
                for reason, images in model.answered_again.items()
            },
            served=tuple(
                ServedInfo(
                    model.name,
                    model.version,
                    model.engines[0].name,
                    model.precision,
                    model.devices,
                    model in answering,
                    catalog.pins.get(model.name) == model.version,
                    model.lane.max_batch_size,
                )
                for model in catalog.served
            ),
        )


def _seconds_per_image(catalog: Catalog, name: str) -> float:
    """Of the newest version that has computed anything."""
    return next((m.lane.seconds_per_item for m in catalog.served if m.name == name and m.lane.seconds_per_item), 0.0)


def lifecycle_of(request: Request) -> Lifecycle:
    """The app's lifecycle, for its routes."""
    lifecycle = request.app.state.lifecycle
    assert isinstance(lifecycle, Lifecycle)
    return lifecycle
