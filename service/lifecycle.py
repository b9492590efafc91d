"""The server's life: starting (models load beside the event loop), ready, draining, closed."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future

from fastapi import Request

from service.gate import Gate, Phase, still_starting
from service.metrics import Metrics
from service.models import Models
from service.pipeline import Pipeline
from service.settings import Settings


class Lifecycle:
    """What the routes share: settings, gate, metrics and, once the models are loaded, the pipeline."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.gate = Gate(settings.max_queue_size)
        self._pipeline: Pipeline | None = None
        self._loading: asyncio.Task[Models] | None = None

    @property
    def pipeline(self) -> Pipeline:
        """Raises Problem while the models are still being loaded."""
        if self._pipeline is None:
            raise still_starting()
        return self._pipeline

    def start(self, loading: Future[Models]) -> None:
        """Become ready as soon as the models are. Call on the event loop."""
        self._loading = asyncio.create_task(self._become_ready(loading))

    async def ready(self) -> Models:
        """Wait for the models. Raises what loading them raised."""
        assert self._loading is not None, "start first"
        return await asyncio.shield(self._loading)

    async def drain(self) -> bool:
        """Refuse new requests and return when the accepted ones are answered; False if some were cut off."""
        if self._pipeline is not None:
            self._pipeline.hurry()
        return await self.gate.drain(self.settings.drain_timeout_ms / 1e3)

    async def close(self) -> None:
        """Free threads and models."""
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(BaseException):
                await self._loading
        if self._pipeline is not None:
            self._pipeline.close()

    async def _become_ready(self, loading: Future[Models]) -> Models:
        models = await asyncio.wrap_future(loading)
        pipeline = Pipeline(models, self.settings, self.metrics)
        for model in models.served:
            manifest = model.manifest
            self.metrics.model(manifest.name, manifest.version, model.engine.name, model.engine.device)
        self.metrics.watch(lambda: pipeline.batcher.depth, lambda: self.gate.in_flight)
        self.gate.seconds_per_request = lambda: pipeline.batcher.seconds_per_item
        self._pipeline = pipeline
        if self.gate.phase is Phase.STARTING:
            self.gate.phase = Phase.READY
        return models


def lifecycle_of(request: Request) -> Lifecycle:
    """The app's lifecycle, for its routes."""
    lifecycle = request.app.state.lifecycle
    assert isinstance(lifecycle, Lifecycle)
    return lifecycle
