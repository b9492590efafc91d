from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.service.harness import Server, publish_probe
from tests.service.http.impatience import MAX_BODY, MAX_UPLOADS


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository that holds the probe."""
    folder = tmp_path_factory.mktemp("models")
    publish_probe(tmp_path_factory.mktemp("staging"), folder)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """A server with small limits, for every test that leaves it running."""
    flags = "--max-body-bytes 200000 --max-pixels 1000000 --max-batch-size 4 --max-queue-size 32 --decode-threads 2"
    # No test is about its deadline, and on a busy machine one may wait for another's requests.
    server = Server.start(repository, *flags.split(), "--engine-threads", "1", "--timeout-ms", f"{PATIENCE * 1e3:.0f}")
    yield server
    server.close()


@pytest.fixture
def start_server(repository: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own with the given flags, and ends them."""
    started: list[Server] = []

    def start(*flags: str, forked: bool = True) -> Server:
        started.append(Server.start(repository, "--engine-threads", "1", *flags, forked=forked))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def impatient(repository: Path) -> Iterator[Server]:
    """A server that gives clients little time and has one thread to decode."""
    flags = f"--header-timeout-ms 500 --upload-timeout-ms 2000 --max-uploads {MAX_UPLOADS} --max-body-bytes {MAX_BODY}"
    server = Server.start(repository, *flags.split(), "--decode-threads", "1", "--engine-threads", "1")
    yield server
    server.close()
