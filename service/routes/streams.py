"""Answers of lines (application/x-ndjson), sent as they are made: what is found, and before it how far the work is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.gzipped import GzipStream, accepts_gzip
from service.http.problems import ANSWERED, CLIENT_LEFT, PROBLEM, Problem, internal_error
from service.http.waiting import while_connected
from service.prediction.decoding import Job
from service.prediction.intake import Visit
from service.prediction.lines import error_line, picture_lines, progress_line
from service.prediction.parameters import MaskFormat
from service.routes.files import PRECISION, grouped

NDJSON: Final = "application/x-ndjson"
HEARTBEAT: Final = 1.0
"""Seconds after which the last progress is told again where there is no other: behind the first line a client that has
left cannot be told from one that waits but by sending something."""

logger = logging.getLogger(__name__)

Lines = AsyncGenerator[bytes, None]


def nothing_more() -> Iterator[bytes]:
    """For answers that are told whole while the work goes on."""
    return iter(())


class PictureLines:
    """One image's answer: `working` tells how far it is until it is computed, then `found` are the lines of it."""

    def __init__(self, visitor: Visit, job: Job, masks: MaskFormat) -> None:
        self._progress = job.progress
        work = visitor.pipeline.predict(job, lambda detected: grouped(picture_lines(detected, masks)))
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(lambda _: self._progress.wake())

    async def working(self) -> Lines:
        """Raises what computing it raises. Closing it ends the work."""
        try:
            while not self._work.done():
                await self._progress.news(HEARTBEAT)
                if self._progress.of and not self._work.done():
                    yield progress_line("tiles", self._progress.done, self._progress.of)
            await self._work
        finally:
            self._work.cancel()

    def found(self) -> Iterator[bytes]:
        return self._work.result()


async def begin_lines(
    visitor: Visit, held: AsyncExitStack, working: Lines, found: Callable[[], Iterator[bytes]] = nothing_more
) -> Response:
    """The answer, once its first line is there: what fails before is answered like every other request.

    held: what the request holds (its model, its place) while `working` goes on. It is let go before `found` is sent, as
    the client may read slowly. Raises Problem.
    """
    held.push_async_callback(working.aclose)

    async def first_line() -> bytes:
        return await anext(working, b"")

    first = await while_connected(visitor.request, first_line())
    return _LineStream(visitor, held.pop_all(), first, working, found)


class _LineStream(Response):
    """A server that drains waits for it. What goes wrong is told in the last line, and counted as its status."""

    def __init__(
        self,
        visitor: Visit,
        held: AsyncExitStack,
        first: bytes,
        working: Lines,
        found: Callable[[], Iterator[bytes]],
    ) -> None:
        super().__init__(
            media_type=NDJSON, headers={"Vary": "Accept, Accept-Encoding", PRECISION: visitor.model.precision}
        )
        del self.headers["Content-Length"]
        self._visitor = visitor
        self._held = held
        self._first = first
        self._working = working
        self._found = found
        self._packer = None
        if accepts_gzip(visitor.accept_encoding):
            self.headers["Content-Encoding"] = "gzip"
            self._packer = GzipStream()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._visitor.lifecycle.gate.sending():
            try:
                await while_connected(self._visitor.request, self._send_all(scope, send))
            except ClientDisconnect:
                scope["state"][ANSWERED] = CLIENT_LEFT
                return
            finally:
                await self._held.aclose()
            end = b"" if self._packer is None else self._packer.end()
            await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_lines(send)
        except Problem as problem:
            await self._send_error(scope, send, problem)
        except Exception as error:  # the server's own mistake, whichever it is: the client gets no stack trace
            logger.error("an answer in lines failed", exc_info=error)
            await self._send_error(scope, send, internal_error())

    async def _send_lines(self, send: Send) -> None:
        async with self._held:
            await self._send_piece(send, self._first)
            async for line in self._working:
                await self._send_piece(send, line)
        pool, priority, found = self._visitor.pipeline.postprocess_pool, self._visitor.priority, self._found()
        while piece := (await pool.run(lambda: next(found, b""), priority))[0]:
            await self._send_piece(send, piece)

    async def _send_error(self, scope: Scope, send: Send, problem: Problem) -> None:
        scope["state"][PROBLEM], scope["state"][ANSWERED] = problem.kind.slug, problem.kind.status
        await self._send_piece(send, error_line(problem))

    async def _send_piece(self, send: Send, piece: bytes) -> None:
        if not piece:
            return
        if (packer := self._packer) is not None:
            pool, plain = self._visitor.pipeline.postprocess_pool, piece
            piece, _ = await pool.run(lambda: packer.add(plain), self._visitor.priority)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
