"""The HTTP connection: uvicorn's, with limits on how slowly and how large a request's head may come.

Belongs below the application, which a request without a complete head never reaches: the answers are written here,
and what became of such a request is told to `on_unheard`, so that it is counted as all others are.
What a request offers beside its own protocol (`Upgrade`: HTTP/2, WebSocket, TLS) is passed over, as RFC 9110 (7.8) lets
a server do, and the request is answered as if it had offered nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.headers import SECURITY, new_request_id
from service.http.old_clients import without_chunks
from service.http.problems import (
    ANSWERED,
    BAD_HTTP,
    CLIENT_LEFT,
    HEADER_TIMEOUT,
    HEADERS_TOO_LARGE,
    PROBLEM,
    Problem,
    problem_response,
)
from service.http.unread import UNREAD_SECONDS, Unread

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; of a request that is pipelined behind another's end, up to twice as much. About as
many bytes may lie between two pieces of a body, and behind the last: sizes and extensions of chunks, and trailers."""
LINGER_SECONDS = 1.0
"""How long a refused client may go on sending. Closing at once would reset the connection under its answer."""

STILL_THERE_SECONDS = 0.1
"""How often a client that has closed its side of the connection is asked whether it still listens."""
_NO_REQUEST = (
    "What came is not an HTTP/1.1 request with one Host and no transfer coding but chunked, or not a whole one; see "
    "RFC 9112."
)
_NO_PATH = "-"
_BEGUN = "begun"
"""Where a request's state holds when its head began, on the loop's clock."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
VERSIONS = ("1.0", "1.1")


@dataclass(frozen=True, slots=True)
class Unheard:
    """A request that never reached the application: it was refused here, with a problem, or its connection ended before
    its head was complete or its turn had come. `method` and `path` are "-" where nobody knows them.
    """

    status: int
    problem: Problem | None
    request_id: str
    method: str
    path: str
    client: str | None
    """The address at the connection's other end."""
    seconds: float
    """Since its beginning."""
    bytes_in: int
    bytes_out: int


def protocol_class(
    header_timeout: float,
    on_unheard: Callable[[Unheard], None] = lambda unheard: None,
    unread_timeout: float = UNREAD_SECONDS,
) -> type[HttpToolsProtocol]:
    """For `uvicorn.Config(http=...)`. A request's head must be complete `header_timeout` seconds after the connection
    opened, or after its first byte on a connection that has had requests. A client that reads nothing of its answer for
    `unread_timeout` seconds is taken for one that has left.
    """
    own = {"header_timeout": header_timeout, "on_unheard": staticmethod(on_unheard), "unread_timeout": unread_timeout}
    return type("Protocol", (_Protocol,), own)


class _Protocol(HttpToolsProtocol):
    header_timeout: float
    unread_timeout: float
    on_unheard: Callable[[Unheard], None]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        """In a request's head or between requests, not in a body."""
        self._head_begun = False
        self._head_bytes = 0
        self._bytes_between = 0
        """Of a body that is being received: since the last byte that belongs to it."""
        self._watched_since = 0.0
        """On the loop's clock."""
        self._current: RequestResponseCycle | None = None
        """The request that the application has, or had last; those in `pipeline` wait for it."""
        self._last = False
        """The latest request asked for the connection's end: what follows is none (RFC 9112, 9.6)."""
        self._deaf = False
        """Nothing more is read: the connection ends after what is being answered."""
        self._deferred: Problem | None = None
        """What the latest request is refused with when those before it are answered."""
        self._has_offer = False
        """The parser is at a head that offers another protocol, and which it is to read again without the offer."""

    @property
    def _answering(self) -> bool:
        # The latest request's: they are answered in their order.
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types its own
        super().connection_made(transport)
        self._unread = Unread(transport, self.unread_timeout)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        self._unread.end()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unread.end()
        super().connection_lost(exc)
        current = self._current
        if current is not None and not current.response_complete:
            current.disconnected = True  # uvicorn tells the latest request alone
            current.message_event.set()
            if not current.response_started:
                current.scope["state"].setdefault(ANSWERED, CLIENT_LEFT)
        for cycle, _ in reversed(self.pipeline):
            self._report(CLIENT_LEFT, cycle.scope)
        self.pipeline.clear()
        if self._in_head and (self._deferred is not None or (self._head_begun and not self._deaf)):
            self._report(CLIENT_LEFT)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it; uvicorn's always closes
        """The client sends nothing more. Whether it has left, or only closed its sending side and waits for its answer,
        looks the same here. What tells them apart is sending something: an interim response, which every client of
        HTTP/1.1 passes over (RFC 9110, 15.2), and to which the system of one that left answers with a reset.
        """
        if self._in_head and self._head_begun:
            self._refuse(Problem(BAD_HTTP, _NO_REQUEST))
        if not self._answering or self.cycle.more_body or self.cycle.scope["http_version"] != "1.1":
            return False  # the connection is closed
        self._deaf = True
        if self._deferred is None:
            self.cycle.keep_alive = False
        self._stop_timer()
        self._ask_whether_there()
        return True

    def _ask_whether_there(self) -> None:
        if not self._answering or self._current is None or self.transport.is_closing():
            return
        if not self._current.response_started:  # in the middle of an answer it would be taken for a part of that
            self.transport.write(CONTINUE)
        self._timer = self.loop.call_later(STILL_THERE_SECONDS, self._ask_whether_there)

    def data_received(self, data: bytes) -> None:
        while data and not self._deaf:
            piece, data = data, b""
            if self._in_head:
                room = MAX_HEAD_BYTES - self._head_bytes
                piece, data = piece[:room], piece[room:]
                self._head_bytes += len(piece)
            self._bytes_between += len(piece)
            self._feed(piece)
            if self._in_head and self._head_bytes >= MAX_HEAD_BYTES:
                detail = f"The request line and the headers take {MAX_HEAD_BYTES} bytes or more; send fewer or shorter."
                self._refuse(Problem(HEADERS_TOO_LARGE, detail))
            elif not self._in_head and self._bytes_between >= MAX_HEAD_BYTES:
                detail = f"The body's chunks have extensions or trailers of {MAX_HEAD_BYTES} bytes or more; send fewer."
                self._refuse(Problem(HEADERS_TOO_LARGE, detail))

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(BAD_HTTP, _NO_REQUEST))

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as stop:
                    rest = rest[stop.args[0] :]
                if not self._has_offer:  # CONNECT: what follows its head is not HTTP
                    self._deaf = True
                    self.cycle.keep_alive = False
                    return
                self._read_without_offer()
        except httptools.HttpParserError:
            self.send_400_response("")

    def _read_without_offer(self) -> None:
        """Read the head that has just been read once more without its offer, for which the parser would take the body
        for another protocol's. The old parser holds that its request has ended, so it is a new one's.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(b"".join([method, b" ", self.url, b" HTTP/", version, b"\r\n", *fields, b"\r\n"]))

    def _unset_keepalive_if_required(self) -> None:
        # uvicorn calls it for every byte. Only a request that begins ends the idle time: after a blank line, or the
        # rest of a body that was answered early, nothing would set the timer again.
        if self._head_begun or self.transport.is_closing():
            super()._unset_keepalive_if_required()

    # Parser callbacks
    def on_message_begin(self) -> None:
        if self._last:
            raise ValueError("a request behind the last")
        super().on_message_begin()
        self.scope["state"][_BEGUN] = self.loop.time()
        if self._answering:
            self._watched_since = self.loop.time()
        self._head_begun = True
        self._unset_keepalive_if_required()
        self._watch_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._has_offer:
            return
        self._check_head()
        super().on_headers_complete()
        self._in_head = self._head_begun = False
        self._last = not self.cycle.keep_alive
        self._head_bytes = self._bytes_between = 0
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._bytes_between = 0
        super().on_body(body)

    def _check_head(self) -> None:
        """What RFC 9112 has a server refuse and the parser takes. Raises ValueError, for the parser to stop."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = sum(name == b"host" for name, _ in self.headers)
        version = self.parser.get_http_version()
        if version not in VERSIONS:  # 2.3
            raise ValueError("another version of HTTP")
        if codings not in ([], [b"chunked"]):  # 6.1; the body would be taken for what it holds
            raise ValueError("a transfer coding other than chunked")
        if hosts > 1 or (not hosts and version == "1.1"):  # 3.2
            raise ValueError("no Host, or several")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle is self.cycle and self._deferred is not None and not self._in_head:  # its body broke off
            self._answer_deferred()
        else:
            self._current = cycle
            answering: Any = without_chunks(app, cycle) if cycle.scope["http_version"] == "1.0" else app
            super()._start_asgi_task(cycle, answering)

    def on_message_complete(self) -> None:
        if self._has_offer:  # not yet: see `_feed`
            return
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._deferred is not None and not self._answering and not self.transport.is_closing():
            self._answer_deferred()
        elif self._head_begun and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._watch_head()

    def _watch_head(self) -> None:
        # While an earlier request is being answered its successor may wait: uvicorn doesn't even read then.
        if self._timer is None and not self._answering:
            self._watched_since = self.loop.time()
            self._timer = self.loop.call_later(self.header_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        if not (self._head_bytes or self._head_begun):  # a browser's spare connection: nobody waits for an answer
            self._stop_timer()
            self.transport.close()
            return
        detail = f"The request's head was not complete within {self.header_timeout:g} seconds; send it in one go."
        self._refuse(Problem(HEADER_TIMEOUT, detail))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem) -> None:
        """Answer what is being received, and end the connection. Requests before it are answered first."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._stop_timer()
        if self._in_head and self._last:  # it is no request
            return
        if self._answering and (self._in_head or self.pipeline):
            self._deferred = problem
        elif self._in_head:
            self._answer(problem)
        else:
            self._break_off(problem)

    def _break_off(self, problem: Problem) -> None:
        """End a request in its body, which the application is reading: it hears that the client is gone, and reports
        what the client gets here.
        """
        if not self.cycle.response_started:
            state = self.cycle.scope["state"]
            state[PROBLEM], state[ANSWERED] = problem.kind.slug, problem.kind.status
            self.transport.write(self._raw(problem, state.get("request_id") or new_request_id()))
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._hang_up()

    def _answer_deferred(self) -> None:
        assert self._deferred is not None
        problem, self._deferred = self._deferred, None
        self._answer(problem, None if self._in_head else cast("Scope", self.cycle.scope))

    def _answer(self, problem: Problem, scope: Scope | None = None) -> None:
        """To a request that the application doesn't get, with the scope if its head was complete."""
        identifier = new_request_id()
        answer = self._raw(problem, identifier)
        self.transport.write(answer)
        self._report(problem.kind.status, scope, problem, identifier, len(answer))
        self._hang_up()

    def _hang_up(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _report(
        self,
        status: int,
        scope: Scope | None = None,
        problem: Problem | None = None,
        identifier: str | None = None,
        bytes_out: int = 0,
    ) -> None:
        known = {"method": _NO_PATH, "path": _NO_PATH} if scope is None else scope
        begun = self._watched_since if scope is None else scope["state"][_BEGUN]
        self.on_unheard(
            Unheard(
                status,
                problem,
                identifier or new_request_id(),
                known["method"],
                known["path"],
                self.client[0] if self.client else None,
                self.loop.time() - begun,
                self._head_bytes if scope is None else 0,
                bytes_out,
            )
        )

    def _raw(self, problem: Problem, identifier: str) -> bytes:
        response = problem_response(problem)
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            *((name.lower().encode(), value.encode()) for name, value in SECURITY.items()),
            (b"x-request-id", identifier.encode()),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
