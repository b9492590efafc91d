"""ASGI middleware around everything: counts requests and turns what nobody expected into a 500 problem."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.problems import CLIENT_LEFT, unexpected


class Observe:
    """Plain ASGI: Starlette's BaseHTTPMiddleware would hide the client's disconnect from the routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # the last resort: whatever it is, the client gets a problem and the log the trace
            if status:
                raise  # too late for another answer: the server closes the connection
            response = unexpected(error, f"{scope['method']} {scope['path']}")
            await response(scope, receive, watched)
        finally:
            # The template, not the path: a scanner's thousand paths must not become a thousand series.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.request(route, status or CLIENT_LEFT, time.perf_counter() - start)
