"""The parent of a group: it holds the listener, gives each connection to a member, and starts again what dies.

It accepts and hands over, in place of letting members accept on a socket that they share: then whoever is awake first
takes what there is, and clients that keep few connections would stay with one of them. Sockets of their own
(SO_REUSEPORT) deal by chance, and what waits on a dead member's is lost. So the least busy gets the next, none
goes to a member that loads or leaves while there is another, and what nobody can take waits in the listener's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from service.group.accounts import Account, counts, of_group
from service.group.channel import Channel, GoneError
from service.group.done import Change, Done
from service.group.handover import VARIABLE, Part, plain
from service.group.hanging import HangsError, while_alive
from service.group.shares import Share
from service.http.keys import Keys
from service.models.seen import Versions, read_versions
from service.observability.ready import Ready, of_several, unlike
from service.settings.listen import address

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
QUICK_SECONDS: Final = 30.0
"""A member that lived for less died quickly."""
MOST_QUICK: Final = 5
"""Quick deaths in a row of one place after which the group ends."""
ACCOUNT_SECONDS: Final = 2.0
"""How long a scrape waits for a member that does not answer; its last account is then taken. Who else asks one waits
as long."""
WRONG_SETTING: Final = 2
"""An exit code."""
RETRY_SECONDS: Final = 0.02
"""Between two looks for a member that can take a connection."""
STATES: Final = ("ready", "alive", "leaving", "drained")
"""Who gets a connection first."""
SILENT_SECONDS: Final = 5.0
"""A member that has told nothing for so long (each gives an account every second) hangs, and is the last to get one."""


@dataclass(slots=True, eq=False)
class _Member:
    """`began`, and `heard`, when it last told anything, are on `time.monotonic()`'s clock. `open` are its connections
    and `received` those it ever took when it last told, `dealt` those that it was given. `stalled`: none of its devices
    computes, so that it refuses all that comes.
    """

    index: int
    process: asyncio.subprocess.Process
    connections: socket.socket
    channel: Channel
    began: float
    heard: float
    state: Literal["begun", "alive", "ready", "leaving", "drained", "gone"] = "begun"
    open: int = 0
    received: int = 0
    dealt: int = 0
    stalled: bool = False
    ready: Ready | None = None

    @property
    def load(self) -> int:
        """Its connections, also those that are on their way."""
        return self.open + self.dealt - self.received


def lead(shares: Sequence[Share], keys: Keys, listener: socket.socket, started: float) -> int:
    """Serve with a process for each share until told to stop; returns the exit code. `started` is when this process
    began (`time.perf_counter()`).
    """
    return asyncio.run(_Parent(shares, keys, listener, started).run())


class _Parent:
    def __init__(self, shares: Sequence[Share], keys: Keys, listener: socket.socket, started: float) -> None:
        self._parts = [
            Part(replace(share, settings=plain(share.settings)), keys, index, speaks=index == 0)
            for index, share in enumerate(shares)
        ]
        self._listener = listener
        self._started = started
        self._members: dict[int, _Member] = {}
        self._accounts: dict[int, Account] = {}
        self._done = Done()
        self._longest = 0.0  # seconds that any member took for a change, or to load what there was at its start
        self._one_at_a_time = asyncio.Lock()
        self._ending = asyncio.Event()
        self._signals = 0
        self._deaths = 0
        self._announced = False
        self._failed = False
        self._code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self._listener.setblocking(False)
        dealing = asyncio.create_task(self._deal())
        codes = await asyncio.gather(*(self._keep(part) for part in self._parts))
        dealing.cancel()
        return max(self._code, *(128 - code if code < 0 else code for code in codes))

    # Members come and go.

    async def _keep(self, part: Part) -> int:
        """Have a member in this place until the end; returns the last one's exit code."""
        quick = 0
        while True:
            member = await self._start(part)
            code = await self._until_ended(member)
            if self._ending.is_set():
                return code
            self._deaths += 1
            quick = quick + 1 if time.monotonic() - member.began < QUICK_SECONDS else 1
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            said = f"process {part.index} ({member.process.pid}) has ended with {how}"
            if quick == MOST_QUICK:
                _say(f"{said}, {quick} times in a row soon after its start; the others are ended too")
                self._end()
                return code or 1
            pause = 2.0 ** (quick - 2) if quick > 1 else 0.0
            _say(f"{said}; it is started again" + (f" in {pause:g} s" if pause else ""))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
                return 0
            before = self._accounts.get(part.index, [])
            part = replace(part, before=before, speaks=False, seen=await self._seen())

    async def _start(self, part: Part) -> _Member:
        talk, their_talk = socket.socketpair()
        connections, their_connections = socket.socketpair()
        connections.setblocking(False)
        with their_talk, their_connections:
            theirs = their_talk.fileno(), their_connections.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env={**os.environ, VARIABLE: ",".join(map(str, theirs))},
                pass_fds=theirs,
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent, which tells them
            )
        member: _Member

        async def on_message(what: str, value: Any) -> Any:
            return await self._on_message(member, what, value)

        channel = await Channel.over(talk, on_message)
        channel.send(part.packed())
        now = time.monotonic()
        member = _Member(part.index, process, connections, channel, now, now)
        self._members[part.index] = member
        if self._ending.is_set():
            self._dismiss(member)
        return member

    async def _until_ended(self, member: _Member) -> int:
        await member.channel.listen()  # whatever it has said is heard before its end
        code = await member.process.wait()
        unborn = member.state == "begun"
        member.state = "gone"
        member.connections.close()
        member.channel.close()
        return 0 if unborn and self._ending.is_set() and code == -signal.SIGTERM else code

    def _on_signal(self) -> None:
        self._signals += 1
        self._end()
        for member in self._members.values():
            if self._signals == 2:
                member.channel.tell("give up")
            elif self._signals > 2 and member.state != "gone":
                member.process.kill()

    def _end(self) -> None:
        if not self._ending.is_set():
            self._ending.set()
            for member in self._members.values():
                self._dismiss(member)

    def _dismiss(self, member: _Member) -> None:
        if member.state == "begun":  # it has no event loop yet, and nobody's request
            with contextlib.suppress(ProcessLookupError):
                member.process.terminate()
        member.channel.tell("leave")

    # What members say.

    async def _on_message(self, member: _Member, what: str, value: Any) -> Any:
        member.heard = time.monotonic()
        match what:
            case "alive":
                member.state = "alive"
            case "load":
                member.open, member.received, member.stalled = value
            case "leaving":
                member.state = "leaving"
            case "drained":
                await self._until_it_may_go(member)
            case "account":
                self._accounts[member.index] = value
            case "accounts":
                self._accounts[member.index] = value
                return await self._others_accounts(member)
            case "change":
                return await self._change(member, tuple(value))
            case "loaded":
                await self._welcome(member, Ready(**value))
            case "failed":
                self._on_failure(*value)
        return None

    async def _until_it_may_go(self, member: _Member) -> None:
        """Members that have drained refuse what is new until all have: a connection to one that just ends is lost.
        After a second signal nobody waits: one that hangs never drains.
        """
        member.state = "drained"
        while self._waits_for_all():
            await asyncio.sleep(RETRY_SECONDS)

    def _waits_for_all(self) -> bool:
        drained = all(one.state in ("drained", "gone") for one in self._members.values())
        return self._ending.is_set() and self._signals < 2 and not drained

    def _on_failure(self, reason: str, code: int) -> None:
        """At the first start it is everybody's: all load the same."""
        if self._announced or not self._failed:
            _say(reason)
        self._failed = True
        if not self._announced:
            self._end()

    async def _welcome(self, member: _Member, ready: Ready) -> None:
        """It has loaded its models: bring it to where the others are, and give it connections."""
        self._longest = max(self._longest, time.monotonic() - member.began)
        async with self._one_at_a_time:
            seen = await self._seen() if self._done else None
            for change in self._done:
                try:
                    refusal = await self._apply(member, change, seen)
                except GoneError:
                    return
                if refusal:
                    _say(f"process {member.index} cannot do what the others have done: {refusal['detail']}")
            if member.state != "alive":  # it is told to leave, or has ended
                return
            member.state = "ready"
        member.ready = ready
        readies = [one.ready for _, one in sorted(self._members.items()) if one.ready is not None]
        if self._announced:
            _say(f"process {member.index} ({member.process.pid}) is ready")
            if reason := unlike(readies):
                _say(reason)
        elif len(readies) == len(self._parts) and not self._ending.is_set():
            if reason := unlike(readies):  # such as torch that can compute on one GPU and not on another
                self._code = WRONG_SETTING
                self._on_failure(reason, WRONG_SETTING)
                return
            self._announced = True
            _say(of_several(readies).line(address(self._listener), time.perf_counter() - self._started))

    async def _others_accounts(self, asker: _Member) -> list[Account]:
        """Of every other place what was counted there, and of a member that lives the state of the moment; last what
        the parent knows itself.
        """

        async def of(index: int) -> Account:
            member = self._members.get(index)
            if member is not None and member.state in STATES:
                with contextlib.suppress(GoneError, TimeoutError):
                    self._accounts[index] = await asyncio.wait_for(member.channel.ask("account"), ACCOUNT_SECONDS)
                    return self._accounts[index]
            return counts(self._accounts.get(index, []))

        others = await asyncio.gather(*(of(part.index) for part in self._parts if part.index != asker.index))
        ready = sum(member.state == "ready" for member in self._members.values())
        return [*others, of_group(ready, self._deaths)]

    async def _change(self, asker: _Member, change: Change) -> dict[str, Any] | None:
        """Change what is served everywhere, first where it was asked for; returns why it could not be, if so.

        A member that does not survive it is started again, and does then what the others have done.
        """
        async with self._one_at_a_time:
            began = time.monotonic()
            try:
                refusal = await self._apply(asker, change)
            except GoneError:  # nobody waits for the answer, and what kills one need not kill the others too
                return None
            if refusal:
                return refusal
            self._longest = max(self._longest, time.monotonic() - began)
            self._done.add(change)
            others = [one for one in self._members.values() if one is not asker and one.state in ("ready", "leaving")]
            refusals = await asyncio.gather(*(self._apply_or_leave(one, change) for one in others))
        for one, refusal in zip(others, refusals, strict=True):
            if refusal:
                said = f"Process {one.index} cannot do what the others have done; ask again. {refusal['detail']}"
                return {**refusal, "detail": said}
        return None

    async def _apply_or_leave(self, member: _Member, change: Change) -> dict[str, Any] | None:
        """As `_apply`, of one whose successor will do it."""
        with contextlib.suppress(GoneError):
            return await self._apply(member, change)
        return None

    async def _seen(self) -> Versions | None:
        """How far a member that is ready has looked into the repository; None where there is none."""
        for member in self._takers():
            if member.state == "ready":
                with contextlib.suppress(GoneError, TimeoutError):
                    seen = await asyncio.wait_for(member.channel.ask("seen"), ACCOUNT_SECONDS)
                    if seen is not None:
                        return read_versions(seen)
        return None

    async def _apply(self, member: _Member, change: Change, seen: Versions | None = None) -> dict[str, Any] | None:
        """Returns why it could not. `seen`: it looks no further than others have. Raises GoneError: it has ended.

        One that hangs is ended, for until it has done the change it serves other versions than the rest, and whoever
        waits for it would wait for ever.
        """
        asking = member.channel.ask("apply", (seen, *change))
        try:
            refusal: dict[str, Any] | None = await while_alive(asking, lambda: member.heard, self._longest)
        except HangsError as error:
            what = f"process {member.index} ({member.process.pid})"
            _say(f"{what} hangs, and is killed: a change of the models waits for it, and it {error}")
            member.process.kill()
            raise GoneError from None
        return refusal

    # Connections.

    async def _deal(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._takers():
                await asyncio.sleep(RETRY_SECONDS)
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptor is free, or the client has left
                await asyncio.sleep(RETRY_SECONDS)
                continue
            with connection:
                while not self._hand_over(connection):
                    await asyncio.sleep(RETRY_SECONDS)

    def _hand_over(self, connection: socket.socket) -> bool:
        for member in self._takers():
            with contextlib.suppress(OSError):  # it takes no more for the moment, or has just ended
                socket.send_fds(member.connections, [b"c"], [connection.fileno()])
                member.dealt += 1
                return True
        return False

    def _takers(self) -> list[_Member]:
        """The members that can take a connection, first who should."""
        silent = time.monotonic() - SILENT_SECONDS
        takers = (member for member in self._members.values() if member.state in STATES)

        def turn(one: _Member) -> tuple[float, ...]:
            return (one.heard < silent, one.stalled, STATES.index(one.state), one.load, one.dealt)

        return sorted(takers, key=turn)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more, and the group goes on
        print(f"maskserve: {line}", file=sys.stderr, flush=True)
