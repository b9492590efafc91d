"""Routes of a function that takes the request and its query, and nothing else: what every prediction comes in by.

`Straight` takes their requests past the parts of the application that only other routes need.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import lru_cache
from typing import Any, get_origin, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette._utils import get_route_path
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

REMEMBERED = 256
"""Queries. Clients ask the same for all their images."""
LONGEST_REMEMBERED = 1024
"""Bytes."""


class DirectRoute(APIRoute):
    """For `async def endpoint(request: Request, query: Annotated[SomeModel, Query()]) -> Response`.

    FastAPI describes it from its signature as any other route, but would look up each parameter anew for every request,
    which takes longer than all else that is done on the event loop for a prediction.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request, BaseModel], Coroutine[Any, Any, Response]] = self.endpoint
        read = query_reader(get_type_hints(endpoint)["query"])

        async def handle(request: Request) -> Response:
            return await endpoint(request, read(request.scope["query_string"]))

        return handle


class Straight:
    """ASGI middleware: a request that names one of the DirectRoutes among `routes` exactly, by method and path, goes
    straight there. Everything else goes on: a wrong method, a slash too many, other routes.

    On the way that it saves, FastAPI asks one route after the other and opens three stacks for what dependencies might
    leave behind, and the middleware that compresses small answers looks into these, which come compressed.
    `handlers` answer exceptions, as the application's own do.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], handlers: Mapping[Any, Any]) -> None:
        self._app = app
        self._ways = {
            (method, route.path): ExceptionMiddleware(_way(route), handlers)
            for route in routes
            if isinstance(route, DirectRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get((scope["method"], get_route_path(scope))) if scope["type"] == "http" else None
        await (way or self._app)(scope, receive, send)


def _way(route: DirectRoute) -> ASGIApp:
    handle = route.get_route_handler()

    async def go(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = route  # as the router does, for whoever looks at the request from outside
        response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)

    return go


def query_reader(model: type[BaseModel]) -> Callable[[bytes], BaseModel]:
    """Reads a URL's query into a frozen model as FastAPI does: of a name that is repeated, the last one counts, unless
    it is a list. What it returns may be returned again. Raises RequestValidationError.
    """
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) is list}

    def read(query: bytes) -> BaseModel:
        values: dict[str, Any] = {}
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name in lists:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise RequestValidationError([{**e, "loc": ("query", *e["loc"])} for e in error.errors()]) from None

    remember = lru_cache(REMEMBERED)(read)
    return lambda query: (remember if len(query) <= LONGEST_REMEMBERED else read)(query)
