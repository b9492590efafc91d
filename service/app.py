"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import VERSION, problems
from service.background import in_background
from service.lifecycle import Lifecycle
from service.models import Models, load_models
from service.observe import Observe
from service.openapi import describe
from service.routes import models, operations, predict
from service.settings import Settings


def create_app(settings: Settings, loading: Future[Models] | None = None) -> FastAPI:
    """The application, answering at once and ready when its models are loaded and warm.

    `loading` hands over a load that has begun already; without it, it begins when the application starts.
    """
    lifecycle = Lifecycle(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lifecycle.start(loading or in_background(lambda: load_models(settings)))
        yield
        await lifecycle.close()

    app = FastAPI(title="maskserve", version=VERSION, lifespan=lifespan, redoc_url=None)
    app.state.lifecycle = lifecycle
    app.add_middleware(Observe, metrics=lifecycle.metrics)
    problems.install(app)
    describe(app)
    app.include_router(predict.router)
    app.include_router(models.router)
    app.include_router(operations.router)
    return app
