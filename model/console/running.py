"""How every command ends where it cannot go on: interrupted, without its reader, without a package.

A module that is run with `python -m` imports this first: until its main function runs, too, a package that is not
installed and Ctrl-C are one line.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Final

from model.console.installing import install

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells count it."""
UNREAD: Final = 141
"""The exit status where the reader of stdout has gone, as in `... | head -1`: that of SIGPIPE, as shells count it."""
UNWRITTEN: Final = 1
"""The exit status where stdout takes nothing: it is closed, or its disk full."""
WRONG: Final = 2
OURS: Final = ("model", "service", "training")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)


def interruptible(run: Callable[[], int]) -> int:
    """What `run` returns, once stdout has taken all. After Ctrl-C, one line and that exit status; where the reader has
    gone, nothing; where stdout is closed or full, one line."""
    _stand_in()
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # Python would do it at the very end, and print a stack trace
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        unread = isinstance(error, BrokenPipeError) and _reader_gone()
        if not unread and (error.filename is not None or error.errno not in _FULL):
            raise
        if not unread:
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in buffers goes there
        return UNREAD if unread else UNWRITTEN


def missing_package(error: ModuleNotFoundError, command: str, extra: str) -> str:
    """What to say about a package that `command` needs; nothing where the module is one of ours."""
    missing = (error.name or "").partition(".")[0]
    return "" if missing in OURS else f"maskserve: {command} needs {missing}, which is not installed: {install(extra)}"


def _stand_in() -> None:
    """A stream that the shell has closed (`>&-`) is None: writing to stdout becomes an error, and stderr is dropped."""
    for number, name, mode in ((1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, mode)
            if nothing != number:
                os.dup2(nothing, number)
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # to the process's end
            setattr(sys, name, stream)


def _reader_gone() -> bool:
    """Whether a standard stream is a pipe that nobody reads: another pipe that broke is a fault of its own."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED)
    if isinstance(error, ModuleNotFoundError):
        name = _program().removesuffix(".__main__")
        extra = {"service.client": "", "service": "serve", "service.predict_many": "many"}.get(name, "train")
        if said := missing_package(error, name, extra):
            print(said, file=sys.stderr)
            raise SystemExit(WRONG)
    sys.__excepthook__(kind, error, trace)


def _program() -> str:
    """The module that `python -m` runs; nothing where it is another kind of program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return "" if spec is None else str(spec.name)


if _program().partition(".")[0] in OURS:
    sys.excepthook = _say
