"""A device that is lost for its process, in real servers: who waits for it is told, and another process takes over."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.patience import PATIENCE
from tests.service.group.members import clients
from tests.service.harness import Server, encode, picture, until
from tests.service.http.impatience import problem_type
from tests.service.losing import MARK, SAID

PNG = encode(picture(1))
TYPE = {"Content-Type": "image/png"}
LOSSES = 'maskserve_engine_losses_total{device="cpu",model="probe"}'


def losing() -> bytes:
    image = picture(1)
    image[0, 3, 0] = MARK
    return encode(image)


def assert_lost(answer: httpx.Response) -> None:
    assert (answer.status_code, problem_type(answer)) == (503, "engine-lost"), answer.text
    assert "cannot use again" in answer.json()["detail"]


def start(repository: Path, *flags: str) -> Server:
    return Server.start(repository, "--max-batch-size", "1", *flags, module="tests.service.losing")


def test_it_is_not_ready_answers_what_it_has_and_ends(repository: Path) -> None:
    server = start(repository, "--device", "cpu,cpu", "--engine-threads", "1")
    try:
        assert server.predict(PNG).status_code == 200
        with server.busy() as held:  # on the first of two devices
            assert_lost(server.predict(losing()))
            assert_lost(server.get_afresh("/readyz"))
            assert server.get_afresh("/v2/health/ready").status_code == 503
            with server.another_client() as client:
                assert_lost(client.post("/predict", content=PNG, headers=TYPE))
            assert server.process.poll() is None
            assert (
                'maskserve_engine_losses_total{device="cpu#1",model="probe"} 1.0' in server.get_afresh("/metrics").text
            )
        assert held[0].result().status_code == 200
        assert server.process.wait(PATIENCE) == 1
        until(lambda: f"maskserve: {SAID}; this process answers what it can, and ends\n" in server.errors)
    finally:
        server.close()


def test_of_several_processes_another_is_started_and_an_error_of_one_image_ends_none(repository: Path) -> None:
    server = start(repository, "--processes", "2")
    try:
        with clients(server) as ((first,), _):
            failing = first.post("/predict", content=encode(picture(fail=True)), headers=TYPE)
            assert failing.status_code == 500
            assert server.metrics()["maskserve_processes"] == 2
            assert_lost(first.post("/predict", content=losing(), headers=TYPE))
        until(lambda: any("has ended with exit code 1; it is started again" in line for line in server.errors))
        until(lambda: any("is ready\n" in line for line in server.errors))
        with server.another_client() as client:
            assert client.post("/predict", content=PNG, headers=TYPE).status_code == 200
            counted = client.get("/metrics").text
        assert (
            f"{LOSSES} 1.0" in counted or 'maskserve_engine_losses_total{device="cpu#1",model="probe"} 1.0' in counted
        )
        assert server.stop() == 0
    finally:
        server.close()
