"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.routing import Route

from service import VERSION
from service.http import problems
from service.http.gzipped import MIN_COMPRESSED, CompressAnswers
from service.http.head import HeadAsGet
from service.http.headers import LastAnswers, SecurityHeaders
from service.http.keys import Keys, RequireKey
from service.http.proxies import BehindProxy
from service.models.background import in_background
from service.models.catalog import Catalog
from service.models.loading import load_first
from service.observability.observe import Observe, Rescue
from service.observability.tracing import Tracing
from service.prediction.lifecycle import Lifecycle
from service.routes import docs, models, operations, page, predict
from service.routes.direct import Straight
from service.routes.files import IMAGE, PRECISION, TRUNCATED
from service.routes.openapi import describe
from service.routes.slashes import NameRedirects
from service.routes.v2 import inference, triton
from service.settings.settings import Settings

ROUTERS = (predict.router, triton.router, inference.router, models.router, operations.router, page.router, docs.router)
"""In this order they are asked whether a request is theirs."""
EXPOSED = (
    "Content-Disposition",
    "Inference-Header-Content-Length",
    PRECISION,
    TRUNCATED,
    IMAGE,
    "Retry-After",
    "X-Request-ID",
)
"""Headers of answers that pages of other origins may read."""


def create_app(
    settings: Settings,
    keys: Keys | None = None,
    loading: Future[Catalog] | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application, answering at once and ready when its models are loaded and warm.

    `loading` hands over a load that has begun already; without it, it begins when the application starts.
    """
    lifecycle = Lifecycle(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lifecycle.start(loading or in_background(lambda: load_first(settings)))
        yield
        await lifecycle.close()

    app = FastAPI(
        title="maskserve",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # ours: FastAPI's would load its scripts from another host
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `tracing`, `metrics` and `logs` are our own
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.lifecycle = lifecycle
    # From the inside out. Predictions come compressed from the pool; what this packs on the event loop is small.
    routes = [*app.routes, *(route for router in ROUTERS for route in router.routes)]
    app.add_middleware(NameRedirects, routes=routes)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        CompressAnswers,
        minimum_size=MIN_COMPRESSED,
        compresslevel=1,
        exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "image/tiff"),  # label images, which are packed
    )
    app.add_middleware(Straight, routes=predict.router.routes, handlers=app.exception_handlers)
    if keys is not None:
        app.add_middleware(RequireKey, keys=keys)
    app.add_middleware(Rescue)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            allow_private_network=True,  # a page of the web may ask a server in its reader's network, if it is allowed
        )
    app.add_middleware(Observe, metrics=lifecycle.metrics, tracing=tracing, access_log=settings.access_log)
    app.add_middleware(SecurityHeaders, cross_origin=bool(settings.cors_origins))
    app.add_middleware(LastAnswers, last=lambda: lifecycle.gate.sends_elsewhere)
    own = {route.path.split("/")[1] for route in routes if isinstance(route, Route)}
    app.add_middleware(BehindProxy, trusted=settings.trusted_proxies, root_path=settings.root_path, own=own)
    problems.install(app)
    describe(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
