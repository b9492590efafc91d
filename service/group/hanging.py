"""How long the parent of a group waits for what it has asked of a member: as long as that shows that it lives, and no
longer than it can take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

Answer = TypeVar("Answer")

LOOK_SECONDS: Final = 1.0
SILENT_LOOKS: Final = 60
"""A member tells its account every second, also while a thread of it loads. Importing or compiling may keep its
interpreter from that for a while, but not for a minute."""
LEAST_SECONDS: Final = 600.0
TIMES_AS_LONG: Final = 10
"""As the longest load so far: others may use the same cores, or the disk."""


class HangsError(Exception):
    """What was asked is not coming. Its text is the reason, which goes on after "it"."""


async def while_alive(asking: Coroutine[Any, Any, Answer], heard: Callable[[], float], longest: float) -> Answer:
    """The answer. `heard` is when the other side last told anything, `longest` the seconds of the longest load so far.

    Looks are counted, and not the time: while the machine or this process stands still nobody is silent.

    Raises HangsError, and what `asking` raises.
    """
    limit = max(LEAST_SECONDS, TIMES_AS_LONG * longest)
    task = asyncio.create_task(asking)
    last, silent, looks = heard(), 0, 0
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
            looks += 1
            silent = silent + 1 if heard() == last else 0
            last = heard()
            if silent >= SILENT_LOOKS:
                raise HangsError(f"has told nothing for {silent * LOOK_SECONDS:.0f} s")
            if looks * LOOK_SECONDS >= limit:
                raise HangsError(f"has not done in {limit:.0f} s what took another {longest:.0f} s at most")
        return task.result()
    finally:
        task.cancel()
