"""What every answer carries: headers that keep browsers from doing more with it than they should, and a request id."""

from __future__ import annotations

import random
import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOCS = "/docs"
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
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"


def new_request_id() -> str:
    """32 hexadecimal digits. They need not be secret, and asking the system for randomness would give up the GIL."""
    return f"{random.getrandbits(128):032x}"


def request_id(scope: Scope) -> str:
    """The client's X-Request-ID if it is 1 to 128 characters of [A-Za-z0-9._:+/=@-], else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _CLIENT_ID.fullmatch(sent) else new_request_id()


def docs_policy(page: bytes) -> str:
    """The Content-Security-Policy that FastAPI's Swagger page needs, its inline scripts allowed by their hashes.

    Swagger UI sets style attributes and draws its icons from data: URLs; a picture that it got as an answer is a blob:.
    """
    hashes = (b64encode(sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page))
    scripts = " ".join([_SWAGGER, *(f"'sha256-{digest}'" for digest in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_SWAGGER} 'unsafe-inline'; "
        f"img-src data: blob: https://fastapi.tiangolo.com/img/favicon.png; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


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
        is_docs = get_route_path(scope) == DOCS
        held: Message | None = None

        async def with_headers(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                if is_docs:
                    held = message  # until the page is there, whose scripts the policy names
                    return
                self._complete(message, identifier)
            elif held is not None:
                MutableHeaders(scope=held).setdefault("Content-Security-Policy", docs_policy(message.get("body", b"")))
                self._complete(held, identifier)
                await send(held)
                held = None
            await send(message)

        await self._app(scope, receive, with_headers)

    def _complete(self, start: Message, identifier: str) -> None:
        # Names are in small letters, by the ASGI specification.
        headers = [header for header in start.get("headers", ()) if header[0] != _REQUEST_ID]
        sent = {name for name, _ in headers}
        missing = [header for header in self._headers if header[0] not in sent]
        start["headers"] = [*headers, (_REQUEST_ID, identifier.encode()), *missing]


class LastAnswers:
    """ASGI middleware: while `leaving()`, every answer is the last on its connection, so that the client opens its next
    one elsewhere.
    """

    def __init__(self, app: ASGIApp, leaving: Callable[[], bool]) -> None:
        self._app = app
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._leaving():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)
