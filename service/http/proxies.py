"""Where the client reached the server, which a proxy in front may have changed: prefix, scheme and address."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

PREFIX = re.compile(r"(/(?!\.\.?(?:/|$))[A-Za-z0-9._~!$&()*+;=:@-]+)*")
"""A path, or nothing. What begins with two slashes would be another host, and dots would lead out of it."""

logger = logging.getLogger(__name__)


class BehindProxy:
    """ASGI middleware: `scope["root_path"]` from X-Forwarded-Prefix, which only `trusted` proxies may send, else
    `root_path`; the scheme and the client's address from X-Forwarded-Proto and X-Forwarded-For of the same proxies.

    Proxies that cut the prefix off and proxies that leave it there are both understood: a path that begins with it
    still has it, unless the server has paths of its own that begin so, with one of `own`.

    Redirects name neither scheme nor host: the client knows them best, and a proxy that unpacks TLS but is not trusted
    would turn https into http.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str], root_path: str, own: Collection[str]) -> None:
        self._forwarded = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]  # ASGI as uvicorn types it
        self._root_path = root_path
        self._own = own
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and 300 <= message["status"] < 400:
                message["headers"] = [
                    (name, _without_origin(value) if name == b"location" else value)
                    for name, value in message.get("headers", ())
                ]
            await send(message)

        if scope["type"] == "http" and (prefix := self._prefix(scope)):
            path = scope["path"]
            has_it = path == prefix or path.startswith(f"{prefix}/")
            if not has_it or prefix.split("/")[1] in self._own:
                scope["path"] = prefix + path
            scope["root_path"] = prefix
        await self._forwarded(scope, receive, answered)  # type: ignore[arg-type]

    def _prefix(self, scope: Scope) -> str:
        client = scope.get("client")
        sent = Headers(scope=scope).get("x-forwarded-prefix")
        if sent is None or client is None or client[0] not in self._forwarded.trusted_hosts:
            return self._root_path
        prefix = sent.strip().rstrip("/")
        if PREFIX.fullmatch(prefix):
            return prefix
        if not self._warned:
            logger.warning("X-Forwarded-Prefix is passed over: %.100r is no path of plain characters", sent)
            self._warned = True
        return self._root_path


def _without_origin(location: bytes) -> bytes:
    _, _, path, query, fragment = urlsplit(location)
    return urlunsplit((b"", b"", b"/" + path.lstrip(b"/"), query, fragment))
