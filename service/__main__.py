"""The server.

python -m service                    # the embedded model at http://127.0.0.1:8000
python -m service --help             # every setting
MASKSERVE_PORT=9000 python -m service --models my-models --model shapes
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.models import Models
    from service.settings import Settings

STARTED = time.perf_counter()


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # until the event loop takes over
        signal.signal(number, lambda *_: sys.exit(0))
    # Imports stand where they are needed: a wrong flag or a taken port is told before anything slow begins.
    from service.background import in_background
    from service.listen import bind
    from service.settings import InvalidSettingsError, read_settings

    try:
        settings = read_settings(sys.argv[1:])
        listener = bind(settings.host, settings.port)
    except InvalidSettingsError as error:
        print(f"maskserve: {error}", file=sys.stderr)
        return 2

    loading = in_background(lambda: _load(settings))  # while this thread imports the web framework
    from service.app import create_app
    from service.server import run

    return run(create_app(settings, loading), settings, listener, STARTED)


def _load(settings: Settings) -> Models:
    from service.models import load_models

    return load_models(settings)


if __name__ == "__main__":
    sys.exit(main())
