"""A slash too many, or one too few, at a path's end: the router sends its client to the route that was meant."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class NameRedirects:
    """ASGI middleware: `scope["route"]` of such a redirect is the route that it leads to, for whoever counts requests
    by route, and not none, which would count it with the paths that scanners try.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message.get("status") == HTTPStatus.TEMPORARY_REDIRECT and "route" not in scope:
                path = scope["path"]
                meant = {**scope, "path": path.rstrip("/") if path.endswith("/") else f"{path}/"}
                scope["route"] = next((one for one in self._routes if one.matches(meant)[0] is not Match.NONE), None)
            await send(message)

        await self._app(scope, receive, named if scope["type"] == "http" else send)
