"""API keys: who may predict, and who may load and unload models."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import ADMINISTRATION_OFF, FORBIDDEN, UNAUTHORIZED, Problem, problem_response

MIN_KEY_LENGTH = 16
OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/", "/docs"})
"""Paths that probes and load balancers GET without a key, and the pages, which ask for one."""
PARTS = ("/page/", "/docs/")
"""What the pages are made of."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REPOSITORY_INDEX = "/v2/repository/index"


class Access(IntEnum):
    """What a request may do; each level includes those below."""

    NONE = 0
    ORDINARY = 1
    ADMINISTRATION = 2


class Keys:
    """The configured keys, held as digests only, so that no log or repr can show one.

    `local` says that only this machine reaches the server: then administration needs no key if there are none at all.
    """

    def __init__(self, api: Sequence[str], admin: Sequence[str], *, local: bool = True) -> None:
        self.local = local
        self.has_api = bool(api)
        self.has_admin = bool(admin)
        self._levels = [
            *((_digest(key), Access.ORDINARY) for key in api),
            *((_digest(key), Access.ADMINISTRATION) for key in admin),
        ]

    def access(self, presented: Iterable[str]) -> Access:
        """The most that any of the presented keys allows. The time taken does not depend on which key matches."""
        best = Access.NONE
        for digest in map(_digest, presented):
            for known, level in self._levels:
                matches = hmac.compare_digest(digest, known)
                best = max(best, Access(level * matches))
        return best


def check_key(key: str) -> None:
    """Raise ValueError, which never shows the key: it is shorter than 16 characters, has whitespace in it or a
    character that is not printable ASCII.
    """
    if len(key.split()) > 1:
        raise ValueError("whitespace inside the key; write one key a line, or separate them by commas")
    if not (key.isascii() and key.isprintable()):
        raise ValueError("the key has a character that is not printable ASCII")
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(
            f"the key is shorter than {MIN_KEY_LENGTH} characters; make a longer one, such as with "
            f"`openssl rand -hex 32`"
        )


def read_keys(file: Path) -> tuple[str, ...]:
    """The keys in `file`, one a line; blank lines and lines that begin with # are ignored.

    Raises ValueError, which names the line and never the key: as `check_key` does; no key at all, as that would leave
    the server open. Raises OSError.
    """
    keys = []
    for number, raw in enumerate(file.read_bytes().splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        key = line.decode("latin-1")
        try:
            check_key(key)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        keys.append(key)
    if not keys:
        raise ValueError(f"{file}: no key in it; write one a line, or leave the setting out to serve without keys")
    return tuple(keys)


def is_administration(method: str, path: str) -> bool:
    """Whether a request changes which models are served. `path` is decoded, as the router sees it.

    Wider than the routes are, so that no spelling of a path gets round it: whatever is not plainly a read counts below
    /models and below /v2/repository, in any case and with any number of slashes. /v2/repository/index, which Triton's
    clients POST to read it, does not count.
    """
    if method in _READING or path == _REPOSITORY_INDEX:
        return False
    match [part for part in path.casefold().split("/") if part]:
        case ["models", _, *_] | ["v2", "repository", *_]:
            return True
    return False


class RequireKey:
    """Refuses requests without the key they need, before their body is read.

    Plain ASGI: Starlette's BaseHTTPMiddleware would hide the client's disconnect from the routes.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await problem_response(refusal, scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        # Behind a prefix alone there may be no slash, which is what the router then redirects to.
        method, path, headers = scope["method"], get_route_path(scope) or "/", Headers(scope=scope)
        if method in ("GET", "HEAD") and (path in OPEN or path.startswith(PARTS)):
            return None
        if method == "OPTIONS" and "access-control-request-method" in headers:  # a browser's preflight carries no key
            return None
        if is_administration(method, path):
            if self._keys.local and not self._keys.has_api and not self._keys.has_admin:
                return _forged(headers)
            if not self._keys.has_admin:
                detail = "The server has no keys for administration; set MASKSERVE_ADMIN_KEYS to allow this."
                return Problem(ADMINISTRATION_OFF, detail)
            needed = Access.ADMINISTRATION
        elif self._keys.has_api:
            needed = Access.ORDINARY
        else:
            return None
        presented = _presented(headers)
        access = self._keys.access(presented)
        if access >= needed:
            return None
        if access is Access.ORDINARY:
            return Problem(FORBIDDEN, "This key is for predictions; administration needs one of MASKSERVE_ADMIN_KEYS.")
        wrong = "The key is not one of this server's" if presented else "The request has no key"
        return Problem(UNAUTHORIZED, f"{wrong}; send `Authorization: Bearer KEY` or `X-API-Key: KEY`.")


def _forged(headers: Headers) -> Problem | None:
    """A page of another site may make its reader's browser POST to a server on the same machine; and by having its own
    name point at that machine (DNS rebinding) it may look as if it were the server's own page.
    """
    origin = headers.get("origin")
    if origin is None or (_host(origin) == headers.get("host", "") and _is_this_machine(origin)):
        return None
    return Problem(FORBIDDEN, "Administration without a key is not for pages of other sites; set MASKSERVE_ADMIN_KEYS.")


def _host(origin: str) -> str | None:
    """None where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_this_machine(origin: str) -> bool:
    """Whether its host is an address, which nobody can have point elsewhere, or localhost."""
    name = urlsplit(origin).hostname or ""
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def _presented(headers: Headers) -> list[str]:
    """The keys of a request. A proxy may use one of the two headers for itself, so either will do."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    candidates = (token.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "").strip())
    return [key for key in candidates if key]


def _digest(key: str) -> bytes:
    # Of the same length whatever the key's: compare_digest would tell a difference in length.
    return sha256(key.encode()).digest()
