"""Routes of a function that takes the request and its query, and nothing else: what every prediction comes in by."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, get_origin, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

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
