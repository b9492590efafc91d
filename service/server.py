"""The process around the application: its socket, its signals, its ready line and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Iterator

import uvicorn
from fastapi import FastAPI

from service.http.protocol import protocol_class
from service.models.catalog import Catalog
from service.models.loading import RefusedError
from service.observability.observe import report_unheard
from service.observability.ready import Ready
from service.observability.tracing import Tracing
from service.prediction.lifecycle import Lifecycle
from service.settings.listen import address
from service.settings.settings import InvalidSettingsError, Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FLUSH_SECONDS = 5
"""How long clients may take to read their last answer after everything accepted is answered."""


def run(app: FastAPI, settings: Settings, listener: socket.socket, tracing: Tracing | None, started: float) -> int:
    """Serve until told to stop; returns the exit code. `started` is when the process began (`time.perf_counter()`)."""
    server = _Alone(configuration(app, settings), app.state.lifecycle, address(listener), started)
    server.run(sockets=[listener])
    if tracing is not None:
        tracing.close()
    return server.exit_code


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    metrics = app.state.lifecycle.metrics
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_class(
            settings.header_timeout_ms / 1e3,
            on_unheard=lambda unheard: report_unheard(unheard, metrics, settings.access_log),
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # `observe` writes it
        server_header=False,
        proxy_headers=False,  # `proxies` reads them
        timeout_keep_alive=settings.keep_alive_ms / 1e3,  # type: ignore[arg-type]  # for call_later: fractions are fine
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )


class Server(uvicorn.Server):
    """uvicorn stops listening as soon as a signal comes; this one first answers what it has accepted.

    For `shutdown_delay_ms` it still answers new requests and only calls itself not ready. While it drains it still
    listens, so that new requests get 503 with Retry-After and /readyz tells the load balancer. At a second signal it
    waits no longer.

    When a device is lost it drains and ends by itself, with an exit code that is not 0.

    Who starts it hears by `tell_ready` and `tell_failure` what became of the models.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._lifecycle = lifecycle
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()
        lifecycle.on_loss = self._on_loss

    def tell_ready(self, ready: Ready) -> None:
        raise NotImplementedError

    def tell_failure(self, reason: str) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, and the process would not exit with 0.
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.spawn(self._announce())

    def leave(self) -> None:
        """Answer what is accepted, and end."""
        if not self._leaving:
            self._leaving = True
            self.spawn(self.drain())

    async def drain(self) -> None:
        await self._lifecycle.drain()
        self.should_exit = True

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    def _on_signal(self) -> None:
        if self._leaving:
            self._lifecycle.gate.give_up()
        else:
            self.leave()

    def _on_loss(self, reason: str) -> None:
        """Only another process can use the device again: whoever started this one is to start another."""
        self.exit_code = 1
        _say(f"{reason}; this process answers what it can, and ends")
        self.leave()

    async def _announce(self) -> None:
        try:
            catalog = await self._lifecycle.ready()
        except Exception as error:  # whatever loading raised, the operator gets one line and the exit code
            self.exit_code = 2 if isinstance(error, InvalidSettingsError) else 1
            self.tell_failure(_reason(error))
            self.should_exit = True
        else:
            # What is there now stays: a full collection would stop everything while it walks through all of it again.
            gc.freeze()
            gc.enable()
            self.tell_ready(_ready(catalog))


class _Alone(Server):
    """A process that has the port for itself, and tells its operator."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, url: str, started: float) -> None:
        super().__init__(config, lifecycle)
        self._url = url
        self._started_at = started

    def tell_ready(self, ready: Ready) -> None:
        _say(ready.line(self._url, time.perf_counter() - self._started_at))

    def tell_failure(self, reason: str) -> None:
        _say(reason)


def _say(line: str) -> None:
    print(f"maskserve: {line}", file=sys.stderr, flush=True)


def _ready(catalog: Catalog) -> Ready:
    served = catalog.served
    return Ready(
        models=", ".join(map(str, served)),
        engines=",".join(dict.fromkeys(model.engines[0].name for model in served)),
        precisions=",".join(dict.fromkeys(model.precision for model in served)),
        devices=",".join(served[0].devices),
        chosen="; ".join(dict.fromkeys(model.engine for model in served if model.engine_why)),
        proven="; ".join(
            dict.fromkeys(f"{model.precision}, {model.precision_why}" for model in served if model.precision_why)
        ),
    )


def _reason(error: Exception) -> str:
    """One line for the operator: the message of an error that was foreseen, the type too of one that was not."""
    message = " ".join(str(error).split())
    foreseen = isinstance(error, (InvalidSettingsError, RefusedError))
    return message if foreseen else f"cannot load the models: {type(error).__name__}: {message}"
