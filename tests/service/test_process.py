"""The process: its start, its errors, its signals and its exit codes."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server, encode, ended, head, launch, picture, publish_probe, until

QUICK = encode(picture(1))


def ends(*flags: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a server that cannot start."""
    done = ended("--port", "0", *flags, **environment)
    return done.returncode, done.stderr


def until_in_flight(server: Server, count: int) -> None:
    until(lambda: server.metrics()["maskserve_requests_in_flight"] == count)


def test_sigterm_lets_accepted_requests_finish_and_refuses_new_ones(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1")
    with ThreadPoolExecutor(3) as pool:
        with server.busy() as accepted:
            accepted += [pool.submit(server.predict, QUICK) for _ in range(3)]
            until_in_flight(server, 4)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.get_afresh("/readyz").status_code != 200)
            ready = server.get_afresh("/readyz")
            refused = httpx.post(
                server.url + "/predict", content=QUICK, headers={"Content-Type": "image/png"}, timeout=PATIENCE
            )
            for answer in (ready, refused):
                assert answer.status_code == 503
                assert answer.json()["type"] == "urn:maskserve:problem:draining"
                assert int(answer.headers["retry-after"]) >= 1
            assert server.get_afresh("/healthz").status_code == 200
        assert [one.result().status_code for one in accepted] == [200] * 4
    assert server.process.wait(20) == 0


def test_sigterm_in_the_middle_of_load_loses_nothing_that_was_accepted(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "4", "--max-queue-size", "16")
    stopped = threading.Event()

    def client(number: int) -> Counter[int]:
        """Ask until refused because of the end; how often which status came."""
        seen: Counter[int] = Counter()
        with server.another_client() as connection:
            while True:
                image = encode(picture(number, slow=21))
                try:
                    answer = connection.post("/predict", content=image, headers={"Content-Type": "image/png"})
                except httpx.TransportError:  # it came when all was answered; the log tells if an answer was lost
                    assert stopped.is_set()
                    return seen
                seen[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.json()["type"] == "urn:maskserve:problem:draining"
                    assert stopped.is_set()
                    return seen

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(client, number) for number in range(12)]
        until(lambda: server.metrics().get('maskserve_requests_total{route="/predict",status="200"}', 0) > 30)
        stopped.set()
        server.process.send_signal(signal.SIGTERM)
        seen = [one.result() for one in clients]
    assert server.process.wait(20) == 0
    assert {status for one in seen for status in one} <= {200, 429, 503}
    answered = sum(one[200] for one in seen)
    until(lambda: sum('"route":"/predict"' in line and '"status":200' in line for line in server.log) >= answered)
    lines = [line for line in server.log if '"route":"/predict"' in line and '"status":200' in line]
    assert len(lines) == answered > 30, "the server counts other answers than the clients got"


def test_for_a_while_after_sigterm_it_still_answers_but_is_not_ready(start_server: Callable[..., Server]) -> None:
    server = start_server("--shutdown-delay-ms", "600000")
    waiting = server.connect()  # opened before, used after
    assert "connection" not in server.client.get("/readyz").headers
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.get_afresh("/readyz").status_code == 503)
    for path in ("/readyz", "/v2/health/ready", "/v2/models/probe/ready"):
        answer = server.get_afresh(path)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:maskserve:problem:draining")
        assert answer.headers["connection"] == "close"
    answer = server.predict(QUICK)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert server.get_afresh("/healthz").status_code == 200
    with waiting:
        waiting.sendall(head(f"Content-Length: {len(QUICK)}") + QUICK)
        everything = b"".join(iter(lambda: waiting.recv(65536), b""))
    assert everything.startswith(b"HTTP/1.1 200 ")
    assert everything.lower().count(b"\r\nconnection: close\r\n") == 1
    assert server.stop() == 0  # the second signal: ten minutes have not passed


def test_after_the_delay_it_drains_and_ends(start_server: Callable[..., Server]) -> None:
    server = start_server("--shutdown-delay-ms", "300")
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began >= 0.3


def test_a_connection_may_idle_for_as_long_as_it_is_told(start_server: Callable[..., Server]) -> None:
    server = start_server("--keep-alive-ms", "200")
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        everything = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server closes it
    assert everything.startswith(b"HTTP/1.1 200 ")


def test_sigint_ends_quietly_though_an_upload_never_ends(start_server: Callable[..., Server]) -> None:
    server = start_server(forked=False)  # or what an import says would be heard by nobody
    assert server.predict(QUICK).status_code == 200
    with server.connect() as connection:
        connection.sendall(head("Content-Length: 1000") + b"abc")
        until(lambda: server.metrics()["maskserve_uploads_in_flight"] == 1)
        assert server.stop(signal.SIGINT) == 0
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
    *said, ready_line = server.errors  # an ordinary life needs no other
    assert said[0] == "maskserve: loading probe/1\n"
    assert said[1:] in ([], ["maskserve: preparing kernels; where none are kept they are compiled, once\n"])
    assert re.fullmatch(
        r"maskserve: probe/1 ready at http://127\.0\.0\.1:\d+ \(onnx, f32, cpu, \d+\.\d s\); "
        r"engine auto: onnx, \w.+\n",
        ready_line,
    )


def test_draining_ends_even_if_the_engine_does_not(start_server: Callable[..., Server]) -> None:
    server = start_server("--drain-timeout-ms", "50")
    with server.busy() as dropped:
        assert server.stop() == 0
        assert dropped[0].result().status_code == 503
    until(lambda: any("not answered in time" in line for line in server.log))


def test_a_second_signal_ends_at_once(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with server.busy() as dropped:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get_afresh("/readyz").status_code != 200)
        assert server.stop() == 0  # the drain's own time is half a minute
        assert dropped[0].result().status_code == 503


def test_before_it_is_ready_it_is_alive_and_says_so(repository: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=PATIENCE, verify=False, headers={"Connection": "close"})
    process = launch("--models", str(repository), "--port", str(port))
    try:
        seen = set()
        deadline = time.monotonic() + PATIENCE
        while 200 not in seen:
            assert time.monotonic() < deadline
            time.sleep(0.005)
            try:
                answer = client.get("/readyz")
            except httpx.TransportError:  # the socket listens before anybody accepts
                continue
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["type"] == "urn:maskserve:problem:starting"
                assert client.get("/healthz").status_code == 200
            seen.add(answer.status_code)
        assert seen <= {200, 503}
    finally:
        client.close()
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("delay", [0.02, 0.2, 0.5, 0.8], ids=str)
def test_a_signal_while_starting_is_no_error(repository: Path, delay: float) -> None:
    process = launch("--models", str(repository))
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGTERM)  # the interpreter itself may not have started yet
    assert "Traceback" not in errors


def test_a_taken_port_is_one_clear_line(server: Server, repository: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    code, errors = ends("--models", str(repository), "--port", port)
    assert code == 2
    assert errors == (
        f"maskserve: cannot listen at 127.0.0.1:{port}: Address already in use; choose another --host or --port\n"
    )


def test_wrong_settings_are_one_clear_line(tmp_path: Path, repository: Path) -> None:
    for flags, environment, message in [
        (["--port", "x"], {}, "--port x: should be a valid integer"),
        (["--bogus"], {}, "unrecognized arguments: --bogus"),
        ([], {"MASKSERVE_BOGUS": "1"}, "unknown setting MASKSERVE_BOGUS"),
        (["--host", "no.such.host.invalid"], {}, "cannot listen at no.such.host.invalid"),
        (["--models", str(tmp_path / "none")], {}, "is not a folder"),
        (["--models", str(tmp_path)], {}, "holds no bundle"),
        (["--models", str(repository), "--model", "nuclei"], {}, "it has probe"),
    ]:
        code, errors = ends(*(flags if "--models" in flags else [*flags, "--models", str(repository)]), **environment)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert errors.startswith("maskserve: ")
        assert message in errors


def test_a_damaged_bundle_is_one_clear_line(tmp_path: Path, repository: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    network = tmp_path / "models" / "probe" / "1" / "model.onnx"
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)
    code, errors = ends("--models", str(tmp_path / "models"))
    assert code == 1
    loading, reason = errors.splitlines()
    assert loading == "maskserve: loading probe/1"
    assert reason.startswith("maskserve: ")
    assert str(network) in reason


def test_several_models_need_a_default_and_are_all_served(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    models = tmp_path / "models"
    for name in ("one", "two"):
        publish_probe(tmp_path / "staging", models, name)
    code, errors = ends("--models", str(models))
    assert code == 2
    assert "say which of one, two" in errors
    server = start_server("--models", str(models), "--model", "two")
    assert server.predict(QUICK).json()["model"] == {"name": "two", "version": 1, "precision": "f32"}
    assert server.predict(QUICK, model="one").json()["model"] == {"name": "one", "version": 1, "precision": "f32"}
    assert [model["name"] for model in server.client.get("/models").json()["models"]] == ["one", "two"]


def test_importing_and_building_the_application_never_imports_torch(repository: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from service.app import create_app; from service.models.loading import load_first\n"
        "from service.settings.settings import Settings\n"
        "settings = Settings(models=Path(sys.argv[1])); load_first(settings); create_app(settings)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(repository)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False\n", done.stderr
