"""Queries are read as FastAPI reads them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import problems
from service.http.problems import INVALID_PARAMETER, Problem
from service.prediction.parameters import BatchQuery, PredictQuery
from service.routes.direct import LONGEST_REMEMBERED, DirectRoute, Straight, query_reader

QUERIES = {
    "nothing": "",
    "numbers": "score_threshold=0.25&max_detections=7&version=3&timeout_ms=1.5&image_id=12",
    "words": "masks=polygon&format=coco&priority=bulk&model=a%20b%2Bc",
    "a list": "labels=cat&labels=big+dog&labels=",
    "the last of two": "score_threshold=0.1&score_threshold=0.9",
    "beyond ASCII": "model=%C3%A9t%C3%A9&labels=%F0%9F%90%88",
    "no UTF-8": "model=%ff%fe",
    "a name alone": "masks",
    "out of range": "score_threshold=1.5",
    "no number": "score_threshold=high&max_detections=",
    "unknown": "threshold=0.5&masks=rle",
    "unknown twice": "threshold=0.5&threshold=0.6",
    "semicolon": "masks=none;format=coco",
    "long": "labels=" + "a" * LONGEST_REMEMBERED,
}


def get(app: FastAPI, url: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(url)

    return asyncio.run(ask())


@pytest.mark.parametrize("model", [PredictQuery, BatchQuery])
@pytest.mark.parametrize("query", [pytest.param(query, id=name) for name, query in QUERIES.items()])
def test_a_query_is_read_as_fastapi_does(model: type[BaseModel], query: str) -> None:
    app, read = FastAPI(), query_reader(model)
    found: list[Any] = []

    async def endpoint(query: Any) -> None:
        found.append(query)

    endpoint.__annotations__["query"] = Annotated[model, Query()]
    app.get("/")(endpoint)

    @app.exception_handler(RequestValidationError)
    async def keep(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found.append({(e["loc"], e["type"], e["msg"]) for e in error.errors()})
        return Response()

    assert get(app, f"/?{query}").status_code == 200
    for _ in range(2):  # the second time it may be remembered
        try:
            ours: Any = read(query.encode())
        except RequestValidationError as error:
            ours = {(e["loc"], e["type"], e["msg"]) for e in error.errors()}
        assert ours == found[0]


def test_what_was_read_is_remembered_unless_it_is_long() -> None:
    read = query_reader(PredictQuery)
    assert read(b"masks=none") is read(b"masks=none")
    assert read(b"masks=none") is not read(b"masks=rle")
    long = QUERIES["long"].encode()
    assert read(long) is not read(long)


def test_the_route_describes_its_query() -> None:
    def described(route_class: type[APIRoute]) -> FastAPI:
        app = FastAPI()
        app.router.route_class = route_class

        @app.get("/")
        async def endpoint(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
            return Response(query.masks)

        return app

    plain, direct = described(APIRoute), described(DirectRoute)
    assert direct.openapi() == plain.openapi()
    assert get(direct, "/?masks=none").text == get(plain, "/?masks=none").text == "none"


class Seen:
    """ASGI middleware that tells which requests came as far as to it, and by which route requests were answered."""

    def __init__(self, app: ASGIApp, requests: list[str], routes: list[str | None]) -> None:
        self._app, self._requests, self._routes = app, requests, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._requests.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)
        self._routes.append(getattr(scope.get("route"), "path", None))


@pytest.mark.parametrize(
    ("method", "path", "is_straight"),
    [
        ("POST", "/predict", True),
        ("POST", "/predict?masks=none", True),
        ("POST", "/predict?masks=round", True),
        ("POST", "/predict?model=missing", True),
        ("POST", "/below/predict", True),
        ("POST", "/predict/", False),
        ("POST", "//predict", False),
        ("POST", "/Predict", False),
        ("POST", "/predict/more", False),
        ("GET", "/predict", False),
        ("HEAD", "/predict", False),
        ("POST", "/other?masks=none", False),
        ("GET", "/nowhere", False),
    ],
)
def test_a_request_that_names_its_route_goes_straight_there(method: str, path: str, is_straight: bool) -> None:
    def served(*, straight: bool) -> tuple[httpx.Response, list[str], list[str | None]]:
        app, router, inside = FastAPI(), APIRouter(route_class=DirectRoute), list[str]()
        outside: tuple[list[str], list[str | None]] = ([], [])
        problems.install(app)

        @router.post("/predict")
        async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
            if query.model is not None:
                raise Problem(INVALID_PARAMETER, "no such model")
            return Response(f"{query.masks} {len(await request.body())}")

        @app.post("/other")
        async def other(query: Annotated[PredictQuery, Query()]) -> str:
            return query.masks

        app.include_router(router)
        app.add_middleware(Seen, requests=inside, routes=[])
        if straight:
            app.add_middleware(Straight, routes=router.routes, handlers=app.exception_handlers)
        app.add_middleware(Seen, requests=outside[0], routes=outside[1])
        transport = httpx.ASGITransport(app, root_path="/below" if path.startswith("/below") else "")

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, content=b"image")

        return asyncio.run(ask()), inside, outside[1]

    expected, _, route = served(straight=False)
    found, inside, straight_route = served(straight=True)
    assert (inside == []) is is_straight
    assert (found.status_code, found.content, found.headers) == (
        expected.status_code,
        expected.content,
        expected.headers,
    )
    assert straight_route == route
