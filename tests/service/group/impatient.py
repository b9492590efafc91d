"""The server, whose group waits seconds, and not a minute, for a member that hangs, and of which `unpin` kills the
process that does it: `python -m tests.service.group.impatient`.
"""

from __future__ import annotations

import os
import signal

from tests.service.holding import install

SILENT_SECONDS = 4


async def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    from service.__main__ import main
    from service.group import hanging
    from service.models.reload import Reloader

    install()
    vars(hanging)["SILENT_LOOKS"] = SILENT_SECONDS
    Reloader.unpin = die  # type: ignore[method-assign]  # what this module is for
    main()
