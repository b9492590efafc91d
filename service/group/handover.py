"""What a member of a group is started with: its part, and the two sockets that lead to the parent.

It is the parent's command once more, in which the part stands in place of flags, environment and files: those may say
something else by the time that a member is started again. Not a fork: NVIDIA's driver, which was asked for the GPUs,
does not survive it.
"""

from __future__ import annotations

import os
import pickle  # nosec B403  # between this program and itself, over a socket that nobody else has
import socket
from dataclasses import dataclass, field
from typing import Final

from service.group.accounts import Account
from service.group.channel import encoded
from service.group.shares import Share
from service.http.keys import Keys
from service.models.seen import Versions
from service.settings.settings import Settings

VARIABLE: Final = "_MASKSERVE_MEMBER"
"""Environment variable: the numbers of the two sockets' descriptors."""
LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Part:
    """`index` counts the members from 0. `before` is the account of those that had this place before. `speaks` says
    that the member tells on stderr what it loads: one does so for all. `seen` is how far the others have looked into
    the repository; None where nobody has.
    """

    share: Share
    keys: Keys
    index: int
    before: Account = field(default_factory=list)
    speaks: bool = False
    seen: Versions | None = None

    def packed(self) -> bytes:
        data = pickle.dumps(self)
        return len(data).to_bytes(LENGTH_BYTES, "big") + data


@dataclass(frozen=True, slots=True)
class Membership:
    """`talk` is the channel's socket; over `connections` come the connections that the parent has accepted."""

    part: Part
    talk: socket.socket
    connections: socket.socket

    def fail(self, error: object, code: int) -> int:
        """Tell the parent, before there is an event loop, why this process ends; returns the exit code."""
        self.talk.sendall(encoded({"what": "failed", "value": [one_line(error), code]}))
        return code


def membership() -> Membership | None:
    """What the parent has left for this process; None if it was started by somebody else."""
    numbers = os.environ.pop(VARIABLE, None)
    if numbers is None:
        return None
    talk, connections = (socket.socket(fileno=int(number)) for number in numbers.split(","))
    for own in (talk, connections):
        own.set_inheritable(False)
    length = int.from_bytes(talk.recv(LENGTH_BYTES, socket.MSG_WAITALL), "big")
    part = pickle.loads(talk.recv(length, socket.MSG_WAITALL))  # nosec B301
    assert isinstance(part, Part)
    connections.setblocking(False)
    return Membership(part, talk, connections)


def plain(settings: Settings) -> Settings:
    """The same settings without the keys, which a member gets by themselves, and of a class that has a name."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    # What nobody said stays so: the engine cuda chooses a precision then.
    return Settings.model_construct(settings.model_fields_set, **values | {"api_keys": (), "admin_keys": ()})


def one_line(error: object) -> str:
    return " ".join(str(error).split())
