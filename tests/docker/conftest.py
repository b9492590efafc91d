from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.harness import Server, encode, picture, publish_probe


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server that has answered, refused and dropped requests."""
    models = tmp_path_factory.mktemp("models")
    publish_probe(tmp_path_factory.mktemp("staging"), models)
    server = Server.start(models)
    assert server.predict(encode(picture(1))).status_code == 200
    assert server.predict(b"no image").status_code == 400
    assert server.predict(encode(picture(slow=78)), timeout_ms=20).status_code == 504
    yield server
    server.close()
