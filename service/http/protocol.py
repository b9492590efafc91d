"""The HTTP connection: uvicorn's, with limits on how slowly and how large a request's head may come.

Belongs below the application, which a request without a complete head never reaches: the answers are written here.
What a request offers beside its own protocol (`Upgrade`: HTTP/2, WebSocket, TLS) is passed over, as RFC 9110 (7.8) lets
a server do, and the request is answered as if it had offered nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.http.headers import SECURITY, new_request_id
from service.http.problems import (
    ANSWERED,
    BAD_HTTP,
    HEADER_TIMEOUT,
    HEADERS_TOO_LARGE,
    PROBLEM,
    Problem,
    problem_response,
)

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; of a request that is pipelined behind another's end, up to twice as much."""
LINGER_SECONDS = 1.0
"""How long a refused client may go on sending. Closing at once would reset the connection under its answer."""

STILL_THERE_SECONDS = 0.1
"""How often a client that has closed its side of the connection is asked whether it still listens."""
_NO_REQUEST = (
    "What came is not an HTTP/1.1 request with one Host and no transfer coding but chunked, or not a whole one; see "
    "RFC 9112."
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was answered to a head that never reached the application. `seconds` are from its beginning."""

    problem: Problem
    request_id: str
    client: str | None
    """The address at the connection's other end."""
    seconds: float
    bytes_in: int
    bytes_out: int


def protocol_class(
    header_timeout: float, on_refusal: Callable[[Refusal], None] = lambda refusal: None
) -> type[HttpToolsProtocol]:
    """For `uvicorn.Config(http=...)`. A request's head must be complete `header_timeout` seconds after the connection
    opened, or after its first byte on a connection that has had requests. `on_refusal` hears of those that were not."""
    return type("Protocol", (_Protocol,), {"header_timeout": header_timeout, "on_refusal": staticmethod(on_refusal)})


class _Protocol(HttpToolsProtocol):
    header_timeout: float
    on_refusal: Callable[[Refusal], None]

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
        self._watched_since = 0.0
        """On the loop's clock."""
        self._deaf = False
        """Nothing more is read: the connection ends after what is being answered."""
        self._has_offer = False
        """The parser is at a head that offers another protocol, and which it is to read again without the offer."""

    @property
    def _answering(self) -> bool:
        # The latest request's: they are answered in their order.
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types its own
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it; uvicorn's always closes
        """The client sends nothing more. Whether it has left, or only closed its sending side and waits for its answer,
        looks the same here. What tells them apart is sending something: an interim response, which every client of
        HTTP/1.1 passes over (RFC 9110, 15.2), and to which the system of one that left answers with a reset.
        """
        if not self._answering or self.cycle.more_body or self.scope["http_version"] != "1.1":
            return False  # the connection is closed
        self._deaf = True
        self.cycle.keep_alive = False
        self._stop_timer()
        self._ask_whether_there()
        return True

    def _ask_whether_there(self) -> None:
        # Not while an earlier request of the same connection is being answered, nor in the middle of an answer.
        if self._answering and not (self.pipeline or self.cycle.response_started or self.transport.is_closing()):
            self.transport.write(CONTINUE)
            self._timer = self.loop.call_later(STILL_THERE_SECONDS, self._ask_whether_there)

    def data_received(self, data: bytes) -> None:
        while data and not self._deaf:
            piece, data = data, b""
            if self._in_head:
                room = MAX_HEAD_BYTES - self._head_bytes
                piece, data = piece[:room], piece[room:]
                self._head_bytes += len(piece)
            self._feed(piece)
            if self._in_head and self._head_bytes >= MAX_HEAD_BYTES:
                detail = f"The request line and the headers take {MAX_HEAD_BYTES} bytes or more; send fewer or shorter."
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
        super().on_message_begin()
        self._head_begun = True
        self._unset_keepalive_if_required()
        self._watch_head()

    def on_headers_complete(self) -> None:
        self._has_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._has_offer:
            return
        self._check_head()
        super().on_headers_complete()
        self._in_head = self._head_begun = False
        self._head_bytes = 0
        self._stop_timer()

    def _check_head(self) -> None:
        """What RFC 9112 has a server refuse and the parser takes. Raises ValueError, for the parser to stop."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = sum(name == b"host" for name, _ in self.headers)
        if codings not in ([], [b"chunked"]):  # 6.1; the body would be taken for what it holds
            raise ValueError("a transfer coding other than chunked")
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):  # 3.2
            raise ValueError("no Host, or several")

    def on_message_complete(self) -> None:
        if self._has_offer:  # not yet: see `_feed`
            return
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head_begun and not self.transport.is_closing():
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
        """Answer what is being received, and end the connection."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._stop_timer()
        if self._in_head and self._answering:
            # The client would take this for the answer to its earlier request. That one is the last.
            self.cycle.keep_alive = False
            return
        if self.pipeline:  # in the body of a request whose turn to be answered has not come
            self.transport.close()
            return
        if self._in_head:
            self._refuse_head(problem)
        elif not self.cycle.response_started:  # the application reports what the client gets here
            state = self.cycle.scope["state"]
            state[PROBLEM], state[ANSWERED] = problem.kind.slug, problem.kind.status
            self.transport.write(self._raw(problem, state.get("request_id") or new_request_id()))
        if self._answering:  # in its body: the application hears that the client is gone, and can say nothing more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _refuse_head(self, problem: Problem) -> None:
        identifier = new_request_id()
        answer = self._raw(problem, identifier)
        self.transport.write(answer)
        client = self.client[0] if self.client else None
        seconds = self.loop.time() - self._watched_since
        self.on_refusal(Refusal(problem, identifier, client, seconds, self._head_bytes, len(answer)))

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
