"""What every answer carries: headers that keep browsers from doing more with it than they should, and a request id."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

# Letters that are safe in a header, in a log line and in a URL, and enough for every usual scheme of ids.
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_REQUEST_ID = b"x-request-id"


def new_request_id() -> str:
    """32 hexadecimal digits. They need not be secret, and asking the system for randomness would give up the GIL."""
    return f"{random.getrandbits(128):032x}"  # nosec B311


def request_id(scope: Scope) -> str:
    """The client's X-Request-ID if it is 1 to 128 characters of [A-Za-z0-9._:+/=@-], else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _CLIENT_ID.fullmatch(sent) else new_request_id()


class SecurityHeaders:
    """ASGI middleware around everything else: `scope["state"]["request_id"]`, X-Request-ID and the security headers.

    A header that the route has set itself stays. `cross_origin` says that pages of other origins may read the answers.
    """

    def __init__(self, app: ASGIApp, cross_origin: bool = False) -> None:
        self._app = app
        headers = SECURITY if cross_origin else {**SECURITY, "Cross-Origin-Resource-Policy": "same-origin"}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = request_id(scope)
        scope.setdefault("state", {})["request_id"] = identifier

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(message, identifier)
            await send(message)

        await self._app(scope, receive, with_headers)

    def _complete(self, start: Message, identifier: str) -> None:
        # Names are in small letters, by the ASGI specification.
        headers = [header for header in start.get("headers", ()) if header[0] != _REQUEST_ID]
        sent = {name for name, _ in headers}
        missing = [header for header in self._headers if header[0] not in sent]
        start["headers"] = [*headers, (_REQUEST_ID, identifier.encode()), *missing]


class LastAnswers:
    """ASGI middleware: while `last()`, every answer is the last on its connection, so that the client opens its next
    one elsewhere.
    """

    def __init__(self, app: ASGIApp, last: Callable[[], bool]) -> None:
        self._app = app
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._last():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)
