"""The log: one line for each record whatever is in it, in both forms, from a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from service.observability.logs import log_request
from service.observability.record import RequestRecord
from tests.patience import PATIENCE
from tests.service.harness import ROOT

SETUP = """
import logging, sys
from service.observability.logs import configure_logging, current_ids, log_request
from service.observability.record import ImageRecord, RequestRecord
from service.observability.trace_context import SpanIds
configure_logging({level!r}, {form!r})
log = logging.getLogger("service.scheduling.gate")

def request(**known):
    common = dict(request_id="r1", method="POST", path="/predict", client="10.0.0.7", headers={{}}, started_ns=0)
    return RequestRecord(**(common | known))
"""

NASTY = "a\nb\rc\x85d\u2028e\x1b[2Jf\u202eg\ud800h\x00i"


def lines(code: str, form: str = "json", level: str = "info") -> list[str]:
    """What a process that runs `code` writes to stdout; its stderr must stay empty."""
    command = [sys.executable, "-c", SETUP.format(level=level, form=form) + code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True)
    assert ended.stderr == b""
    text = ended.stdout.decode()
    assert not text or text.endswith("\n")
    return text.splitlines()  # at whatever Unicode takes for the end of a line


def objects(code: str, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(code, level=level)]


def test_a_json_line_has_time_level_logger_message_and_what_was_given() -> None:
    (line,) = objects("log.warning('%d wait', 3, extra={'places': 2, 'who': {'a': [1, None]}, 'level': 'forged'})")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "WARNING",
        "logger": "service.scheduling.gate",
        "message": "3 wait",
        "places": 2,
        "who": {"a": [1, None]},
    }


def test_a_text_line_is_for_people() -> None:
    (line,) = lines("log.info('opened', extra={'places': 2, 'who': 'you and I', 'how': 'wide'})", "text")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO service\.scheduling\.gate: "
        r"opened places=2 who=\"you and I\" how=wide",
        line,
    )


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_in_a_message_or_a_field_ends_the_line(form: str) -> None:
    code = f"nasty = {NASTY!r}\nlog.info('got %s', nasty, extra={{'name_': nasty}})\nlog_request(request(path=nasty))"
    written = lines(code, form)
    assert len(written) == 2
    for line in written:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", line)
    if form == "json":
        first, second = map(json.loads, written)
        assert first["message"] == f"got {NASTY}"
        assert first["name_"] == second["path"] == NASTY


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_with_its_trace_is_one_line(form: str) -> None:
    code = """
try:
    raise ValueError('first\\nsecond')
except ValueError:
    log.exception('failed')
"""
    (line,) = lines(code, form)
    if form == "json":
        trace = json.loads(line)["exception"]
        assert trace.startswith("Traceback (most recent call last):\n")
        assert trace.endswith("ValueError: first\nsecond")
    else:
        assert ' failed exception="Traceback (most recent call last):\\n' in line


@pytest.mark.parametrize(
    ("field", "logged"),
    [
        pytest.param("object", "<class 'object'>", id="something that JSON has no word for"),
        pytest.param("1 << 80", 1 << 80, id="an integer past 64 bits"),
        pytest.param("{1: 'a'}", {"1": "a"}, id="keys that are no strings"),
        pytest.param("float('nan')", None, id="not a number"),
    ],
)
def test_any_field_can_be_logged(field: str, logged: object) -> None:
    (line,) = objects(f"log.info('x', extra={{'field': {field}}})")
    assert line["field"] == logged


def test_lines_written_while_a_request_is_handled_carry_its_ids() -> None:
    code = """
log.info('before')
token = current_ids.set(request(request_id='r7', span=SpanIds('a' * 32, 'b' * 16)).ids)
log.info('during', extra={'span_id': 'another'})
log_request(request(request_id='r8'))
log_request(request(request_id='r9', span=SpanIds('c' * 32, 'd' * 16)))
current_ids.reset(token)
log.info('after')
"""
    assert [(line.get("request_id"), line.get("trace_id"), line.get("span_id")) for line in objects(code)] == [
        (None, None, None),
        ("r7", "a" * 32, "another"),
        ("r8", None, None),
        ("r9", "c" * 32, "d" * 16),
        (None, None, None),
    ]


def test_levels_are_kept_and_noisy_libraries_quiet() -> None:
    code = """
log.debug('a'); log.info('b')
logging.getLogger('uvicorn.error').info('c'); logging.getLogger('uvicorn.error').warning('d')
logging.getLogger('python_multipart.multipart').warning('e')
logging.getLogger('elsewhere').info('f')
"""
    assert [line["message"] for line in objects(code)] == ["b", "d", "f"]
    assert [line["message"] for line in objects(code, "debug")] == ["a", "b", "d", "f"]
    assert objects(code, "error") == []


def test_a_request_is_one_line_with_all_that_is_known() -> None:
    code = """
image = ImageRecord(batch_size=4, detections=17)
image.add('queue', 0.001); image.add('decode', 0.002); image.add('queue', 0.003)
image.add('inference', 0.02); image.add('postprocess', 0.004)
log_request(request(route='/predict', status=200, seconds=0.0312345, bytes_in=1000, bytes_out=500, model='nuclei',
                    version=2, priority='high', images=[image]))
"""
    (line,) = objects(code)
    del line["time"]
    assert line == {
        "level": "INFO",
        "logger": "service.requests",
        "message": "POST /predict 200 31.2 ms",
        "request_id": "r1",
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "duration_ms": 31.234,
        "client": "10.0.0.7",
        "bytes_in": 1000,
        "bytes_out": 500,
        "model": "nuclei",
        "version": 2,
        "priority": "high",
        "batch_size": 4,
        "detections": 17,
        "stages_ms": {"queue": 4.0, "decode": 2.0, "inference": 20.0, "postprocess": 4.0},
    }


def test_a_request_with_several_images_has_their_sums() -> None:
    code = """
images = [ImageRecord(batch_size=2, detections=3), ImageRecord(batch_size=3, detections=0), ImageRecord()]
for image in images:
    image.add('decode', 0.01)
log_request(request(status=200, images=images))
"""
    (line,) = objects(code)
    assert line["images"] == 3
    assert line["detections"] == 3
    assert line["batch_size"] == 3
    assert line["stages_ms"] == {"decode": 30.0}


def test_a_refused_request_has_no_fields_that_mean_nothing() -> None:
    (line,) = objects("log_request(request(status=429, problem='queue-full', client=None))")
    assert line["problem"] == "queue-full"
    assert line["route"] == "unmatched"
    absent = {"client", "model", "version", "priority", "batch_size", "detections", "images", "stages_ms"}
    assert not absent & line.keys()


@pytest.mark.parametrize(
    ("status", "route", "level"),
    [
        pytest.param(200, "/predict", "INFO", id="answered"),
        pytest.param(422, "/predict", "INFO", id="the client's fault"),
        pytest.param(500, "/predict", "WARNING", id="ours"),
        pytest.param(503, "/predict", "INFO", id="draining is no failure"),
        pytest.param(504, "/predict", "INFO", id="a deadline is no failure"),
        pytest.param(200, "/healthz", "DEBUG", id="probe"),
        pytest.param(200, "/metrics", "DEBUG", id="scrape"),
        pytest.param(200, "/v2/health/ready", "DEBUG", id="probe of the inference protocol"),
        pytest.param(503, "/readyz", "INFO", id="a probe that fails"),
        pytest.param(200, "/v2/models/{name}", "INFO", id="not a probe"),
    ],
)
def test_the_level_of_a_request(status: int, route: str, level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "service.requests")
    log_request(RequestRecord("r1", "GET", "/", None, {}, 0, route=route, status=status))
    assert [record.levelname for record in caplog.records] == [level]


def test_a_reader_that_leaves_breaks_nothing() -> None:
    code = """
log.info('first')
sys.stdin.readline()
for _ in range(3):
    log.info('nobody reads this' * 10_000)
print('alive', file=sys.stderr)
"""
    command = [sys.executable, "-c", SETUP.format(level="info", form="json") + code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["message"] == "first"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b"alive\n"
        assert process.wait(30) == 0


def test_a_process_without_stdout_logs_nowhere() -> None:
    # Number 1 is free then, and the next file opened gets it.
    code = """
import tempfile
taken = tempfile.TemporaryFile()
assert taken.fileno() == 1
log.info('lost')
assert taken.seek(0, 2) == 0
print('alive', file=sys.stderr)
"""
    command = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", SETUP.format(level="info", form="json") + code]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert ended.stderr == b"alive\n"
    assert ended.returncode == 0
