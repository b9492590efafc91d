"""Everything the process logs goes to stdout, one physical line each, as JSON for machines or as text for people.

What a client sends can reach a line but never break out of it: control characters are escaped in both forms.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

import orjson

from service.observability.record import RequestRecord

current_ids: ContextVar[Mapping[str, str]] = ContextVar("current_ids", default=MappingProxyType({}))
"""Set it while a request is handled, and every line logged meanwhile in its context carries these fields."""

# A probe every second is noise, as long as it succeeds. By route.
PROBES = ("/healthz", "/readyz", "/metrics")
PROBES_UNDER = "/v2/health/"
# 5xx that say no more than that the server is busy, starting or draining.
EXPECTED = (503, 504)

# What every LogRecord has, and what uvicorn adds for terminals; anything else came in by `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}

# C0 and C1 controls, line and paragraph separator, marks that turn the direction of writing, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_requests = logging.getLogger("service.requests")


def configure_logging(level: str, form: Literal["json", "text"], process: int | None = None) -> None:
    """Log to stdout from now on, and nowhere else. `level` is the name of the least severe level, in any case;
    `process` is which one of a group this is, and stands in every line.
    """
    handler: logging.Handler = logging.NullHandler()
    if sys.stdout is not None:  # started with stdout closed, the number 1 may by now be somebody's socket
        handler = _Lines(sys.stdout.fileno())
    always = {} if process is None else {"process": process}
    handler.setFormatter(_JsonFormatter(always) if form == "json" else _TextFormatter(always))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # No line shows these, so they need not be found out for each (the manual of `logging`, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # uvicorn's own account of starting and stopping adds nothing to the ready line.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
    # A client's bad body is the client's business, and gets its 400.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def log_request(record: RequestRecord) -> None:
    """One line about a request that is over."""
    level = logging.INFO
    if record.is_server_error and record.status not in EXPECTED:
        level = logging.WARNING
    elif record.status < 400 and (record.route in PROBES or record.route.startswith(PROBES_UNDER)):
        level = logging.DEBUG
    if not _requests.isEnabledFor(level):
        return
    message = f"{record.method} {record.path} {record.status} {record.seconds * 1e3:.1f} ms"
    _requests.log(level, message, extra=_fields(record))


def _fields(record: RequestRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        **record.ids,
        "method": record.method,
        "path": record.path,
        "route": record.route,
        "status": record.status,
        "duration_ms": _milliseconds(record.seconds),
        "client": record.client,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "model": record.model,
        "version": record.version,
        "priority": record.priority,
        "problem": record.problem,
        "batch_size": record.batch_size or None,
        "detections": record.detections,
        "images": len(record.images) if len(record.images) > 1 else None,
        "stages_ms": {name: _milliseconds(seconds) for name, seconds in record.stage_seconds().items()} or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)


class _Lines(logging.Handler):
    """Writes each record to a file descriptor at once, with its line's end.

    Without a buffer: what could not be written would stay in it, and fail again when Python flushes it at the exit.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._out = io.FileIO(descriptor, "wb", closefd=False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            rest = memoryview(self.format(record).encode() + b"\n")
        except Exception:  # a call with arguments that don't fit its message, told on stderr
            self.handleError(record)
            return
        # Nobody reads any more: there is no place left to say so, and the request goes on.
        with contextlib.suppress(OSError):
            while rest:
                # None: stdout was made non-blocking by whoever shares it, and is full.
                rest = rest[self._out.write(rest) or len(rest) :]


class _Formatter(logging.Formatter):
    """`always` are fields of every line."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._always = always

    def fields_of(self, record: logging.LogRecord) -> Mapping[str, Any]:
        """Beside those, what the caller gave by `extra`, the current request's ids and the exception's trace."""
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if "request_id" not in extra:
            extra |= {key: value for key, value in current_ids.get().items() if key not in extra}
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return {**self._always, **extra}


class _JsonFormatter(_Formatter):
    """One JSON object; the keys that every line has cannot be overwritten by `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        return _escape(_to_json(fields | {k: v for k, v in self.fields_of(record).items() if k not in fields}))


class _TextFormatter(_Formatter):
    """`2026-11-22 12:00:00,123 INFO service.scheduling.gate: message key=value`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record)} {record.levelname} {record.name}: {_message(record)}"
        return _escape(" ".join([head, *(f"{key}={_as_text(value)}" for key, value in self.fields_of(record).items())]))


def _message(record: logging.LogRecord) -> str:
    return record.getMessage().rstrip()  # uvicorn ends some with a line's end


def _as_text(value: object) -> str:
    text = value if isinstance(value, str) else _to_json(value)
    # Quoted where it could be taken for two fields, or for none.
    return _to_json(text) if isinstance(value, str) and re.search(r'[\s"=]|^$', text) else text


def _to_json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # lone surrogates, integers past 64 bits
        return json.dumps(value, default=str, skipkeys=True)


def _escape(text: str) -> str:
    """Without characters that end a line or move a terminal's cursor. JSON stays the same JSON."""
    return _UNSAFE.sub(lambda match: _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}", text)
