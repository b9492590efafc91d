"""The server.

maskserve serve                      # the embedded model at http://127.0.0.1:8000
maskserve serve --help               # every setting
maskserve serve --check              # validate the settings and the models, print what would hold, and exit
MASKSERVE_PORT=9000 maskserve serve --models my-models --model shapes
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn

import model.console.running  # noqa: F401  # says in one line which package is missing

if TYPE_CHECKING:
    from service.group.handover import Membership
    from service.models.catalog import Catalog
    from service.models.seen import Versions
    from service.settings.settings import Settings

CHECK = "--check"
STARTED = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serves until it is told to stop, and ends the process."""
    code = _run(sys.argv[1:] if arguments is None else arguments)
    logging.shutdown()
    # Everything is answered. Python would wait for threads that load or compute what nobody waits for any more, or end
    # them in the middle of native code, which aborts the process.
    os._exit(code)


def _run(given: Sequence[str]) -> int:
    # Until the event loop takes over. Not by an exception, which an import may swallow, and which would end threads in
    # the middle of native code: nothing is accepted yet, so there is nothing to put in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    # Imports stand where they are needed: a wrong flag or a taken port is told before anything slow begins.
    from service.group.handover import membership

    member = membership()
    return _start(given) if member is None else _join(member)


def _start(given: Sequence[str]) -> int:
    """What an operator starts: the server, or the parent of several."""
    from service.group.shares import share_out
    from service.observability.tracing import start_tracing
    from service.settings.configuration import manual, read_all_keys, read_settings
    from service.settings.listen import allow_connections, bind
    from service.settings.settings import InvalidSettingsError

    arguments = [argument for argument in given if argument != CHECK]
    if {"-h", "--help"} & set(arguments):
        _print(manual())
        return 0
    try:
        settings = read_settings(arguments)
        keys = read_all_keys(settings)
        shares = share_out(settings)
        if CHECK in given:
            return _check(settings, arguments)
        allow_connections()
        listener = bind(settings.host, settings.port)
        if len(shares) > 1:
            from service.group.parent import lead

            return lead(shares, keys, listener, STARTED)
        tracing = start_tracing()
    except InvalidSettingsError as error:
        return _stop(error, 2)

    loading = _begin(settings, _say)
    from service.app import create_app
    from service.server import run

    return run(create_app(settings, keys, loading, tracing), settings, listener, tracing, STARTED)


def _join(member: Membership) -> int:
    """One of several processes, which their parent starts."""
    from service.observability.tracing import start_tracing
    from service.settings.settings import InvalidSettingsError

    part = member.part
    settings = part.share.settings
    try:
        tracing = start_tracing()
    except InvalidSettingsError as error:
        return member.fail(error, 2)
    loading = _begin(settings, _say if part.speaks else lambda line: None, part.index, part.seen)
    from service.app import create_app
    from service.group.member import serve

    return serve(create_app(settings, part.keys, loading, tracing), member, tracing)


def _begin(
    settings: Settings, say: Callable[[str], None], process: int | None = None, seen: Versions | None = None
) -> Future[Catalog]:
    """Prepare this process for serving, and load its models while the main thread imports the web framework."""
    from service.models.background import in_background
    from service.observability.logs import configure_logging
    from service.observability.memory import keep_freed_memory

    configure_logging(settings.log_level, settings.log_format, process)  # loading may have something to say
    keep_freed_memory()
    gc.disable()  # until ready: nearly all that is made by then stays
    return in_background(lambda: _load(settings, say, seen))


def _load(settings: Settings, say: Callable[[str], None], seen: Versions | None = None) -> Catalog:
    from service.models.loading import RefusedError, load_first

    try:
        return load_first(settings, say, seen)
    except RefusedError as error:
        if seen is None:
            raise
        reason = "what the other processes have seen cannot be served any more, and this one takes what there is: %s"
        logging.getLogger(__name__).warning(reason, error)
    return load_first(settings, say)


def _say(line: str) -> None:
    print(f"maskserve: {line}", file=sys.stderr, flush=True)


def _check(settings: Settings, arguments: Sequence[str]) -> int:
    """Everything that the start would do but listen, and then load the older versions that would be kept."""
    from service.models.loading import RefusedError
    from service.models.reload import Reloader
    from service.observability.tracing import start_tracing
    from service.settings.configuration import effective

    logging.disable()  # all of it is told below
    if (tracing := start_tracing()) is not None:
        tracing.close()
    _print(effective(settings, arguments))
    try:
        catalog = _load(settings, lambda line: None)
    except (RefusedError, OSError) as error:
        return _stop(error, 1)
    asyncio.run(Reloader(catalog, settings).reload())
    for name in catalog.known_names:
        for one in (one for one in catalog.versions(name) if one.state != "retired"):
            told = one.reason
            if one.state == "served":
                found = catalog.find(name, one.version)
                told = f"can be served, in {found.precision} by {found.engine}"
                if found.precision_why:
                    told += f"; precision auto: {found.precision}, {found.precision_why}"
            _print(f"# {name}/{one.version}: {told}")
    if not catalog.refused:
        return 0
    refused = ", ".join(f"{name}/{version}" for name, version in sorted(catalog.refused))
    return _stop(f"cannot be served: {refused}; the reasons are on stdout", 1)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads on, as in `--help | head -1`
        print(text, flush=True)


def _stop(error: object, code: int) -> int:
    """One line for whoever starts the server, whatever was in a setting."""
    print(f"maskserve: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
