"""A member of a group: the whole server, but that its connections, and what it is told, come from the parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from service.group.accounts import Account, total
from service.group.channel import Channel, GoneError
from service.group.deeds import unpacked
from service.group.exposing import account, exposition
from service.group.handover import Membership
from service.http.problems import DRAINING, KINDS, Problem, internal_error
from service.models.seen import looking_within, read_versions
from service.observability.by_version import Deeds, Key
from service.observability.ready import Ready
from service.observability.tracing import Tracing
from service.prediction.lifecycle import Lifecycle
from service.scheduling.gate import Phase
from service.server import Server, configuration

TICKS_PER_ACCOUNT: Final = 10
"""Of uvicorn's ten ticks a second: what a member that is killed has counted since its last account is lost."""
AT_ONCE: Final = 64
"""Connections taken before the event loop goes on with those that there are."""

logger = logging.getLogger(__name__)


def serve(app: FastAPI, membership: Membership, tracing: Tracing | None) -> int:
    """Serve until told to stop; returns the exit code."""
    part, lifecycle = membership.part, app.state.lifecycle
    lifecycle.turn, lifecycle.seen = part.share.turn, part.seen
    member = _Member(configuration(app, part.share.settings), lifecycle, membership)
    member.run(sockets=[])
    if tracing is not None:
        tracing.close()
    return member.exit_code


class _Member(Server):
    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, membership: Membership) -> None:
        super().__init__(config, lifecycle)
        self._membership = membership
        self._connections = membership.connections
        self._received = 0
        self._told = (0, 0, False)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._channel = await Channel.over(self._membership.talk, self._on_message)
        self._lifecycle.everywhere = Everywhere(self._channel)
        self._lifecycle.exposition, self._lifecycle.deeds = self._exposition, self._deeds
        await super().startup(sockets)
        self.spawn(self._listen())
        asyncio.get_running_loop().add_reader(self._connections, self._take)
        self._channel.tell("alive")

    async def on_tick(self, counter: int) -> bool:
        told = len(self.server_state.connections), self._received, self._lifecycle.gate.phase is Phase.RECOVERING
        if told != self._told:
            self._told = told
            self._channel.tell("load", told)
        if counter % TICKS_PER_ACCOUNT == 0:
            self._channel.tell("account", self._account())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().remove_reader(self._connections)
        await super().shutdown(sockets)
        self._channel.tell("account", self._account())
        await self._channel.flush()

    async def drain(self) -> None:
        self._channel.tell("leaving")
        await self._lifecycle.drain()
        with contextlib.suppress(GoneError):
            await self._channel.ask("drained")
        self.should_exit = True

    def tell_ready(self, ready: Ready) -> None:
        self._channel.tell("loaded", asdict(ready))

    def tell_failure(self, reason: str) -> None:
        self._channel.tell("failed", (reason, self.exit_code))

    async def _listen(self) -> None:
        await self._channel.listen()
        self.leave()  # without a parent nothing new comes: end as if it had said so

    async def _on_message(self, what: str, value: Any) -> Any:
        match what:
            case "leave":
                self.leave()
            case "give up":
                self._lifecycle.gate.give_up()
            case "account":
                return self._account()
            case "apply":
                seen, *change = value
                with looking_within(read_versions(seen)):
                    return await self._apply(*change)
            case "seen":
                return self._lifecycle.reloader.seen
        return None

    async def _apply(self, change: str, *arguments: Any) -> dict[str, Any] | None:
        """Change the models of this process by a method of its `Reloader`; returns why it could not, if so."""
        try:
            await getattr(self._lifecycle.reloader, change)(*arguments)
        except Problem as problem:
            return _packed(problem)
        except Exception:  # the server's own mistake, whichever it is: who asked gets a 500, as in one process
            logger.exception("%s %s failed", change, arguments)
            return _packed(internal_error())
        return None

    def _account(self) -> Account:
        metrics = self._lifecycle.metrics
        return account(metrics.registry, metrics.by_version.deeds, self._membership.part.before)

    async def _everybodys(self) -> Account:
        own = self._account()
        with contextlib.suppress(GoneError):
            return total([own, *await self._channel.ask("accounts", own)])
        return own

    async def _exposition(self) -> bytes:
        return exposition(await self._everybodys())

    async def _deeds(self) -> Mapping[Key, Deeds]:
        return unpacked(await self._everybodys())

    def _take(self) -> None:
        """Serve the connections that the parent has sent."""
        for _ in range(AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._connections, 1, 1)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._connections)
                return
            for descriptor in descriptors:
                self._received += 1
                self.spawn(self._adopt(socket.socket(fileno=descriptor)))

    async def _adopt(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn's own call
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        with contextlib.suppress(OSError):  # it is closed already
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)


class Everywhere:
    """The `Changes` of a group: what it is asked for has been done by every process when it returns.

    It begins with this one; where that refuses, nothing is changed elsewhere. The parent takes one change at a time.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def renew(self, name: str, version: int | None = None) -> None:
        await self._change("renew", name, version)

    async def promote(self, name: str, version: int) -> None:
        await self._change("promote", name, version)

    async def unpin(self, name: str) -> None:
        await self._change("unpin", name)

    async def unload(self, name: str, version: int | None) -> None:
        await self._change("unload", name, version)

    async def _change(self, *change: object) -> None:
        try:
            refusal = await self._channel.ask("change", change)
        except GoneError:
            raise Problem(DRAINING, "The process that leads this group has ended, and so does this one.", 5) from None
        if refusal is not None:
            kind = next(kind for kind in KINDS if kind.slug == refusal["kind"])
            raise Problem(kind, refusal["detail"], refusal["retry_after"])


def _packed(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind.slug, "detail": problem.detail, "retry_after": problem.retry_after}
