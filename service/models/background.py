"""One job beside the main thread, which need not have an event loop yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` on a daemon thread: unlike a pool's, it does not keep a process alive that was told to stop."""
    future: Future[Result] = Future()

    # From here on it cannot be cancelled: the thread would have nowhere to put its result.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return future
