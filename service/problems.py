"""Errors as the client sees them: RFC 9457 `application/problem+json` with a stable `type`, never a stack trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection; only metrics see it."""
MEDIA_TYPE = "application/problem+json"
URN = "urn:maskserve:problem:"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of error; `slug` ends its `type` URN and never changes."""

    slug: str
    status: int
    title: str

    @property
    def type(self) -> str:
        return URN + self.slug


BAD_MULTIPART = ProblemKind("bad-multipart", 400, "The multipart body cannot be used")
NOT_AN_IMAGE = ProblemKind("not-an-image", 400, "The upload is not an image")
DAMAGED_IMAGE = ProblemKind("damaged-image", 400, "The image is damaged or truncated")
NO_SUCH_MODEL = ProblemKind("no-such-model", 404, "No such model or version")
TOO_MANY_BYTES = ProblemKind("too-many-bytes", 413, "The upload has too many bytes")
TOO_MANY_PIXELS = ProblemKind("too-many-pixels", 413, "The image has too many pixels")
UNSUPPORTED_TYPE = ProblemKind("unsupported-content-type", 415, "This content type is not accepted")
UNSUPPORTED_FORMAT = ProblemKind("unsupported-image-format", 415, "This image format is not accepted")
INVALID_PARAMETER = ProblemKind("invalid-parameter", 422, "A parameter is invalid")
QUEUE_FULL = ProblemKind("queue-full", 429, "The queue is full")
INTERNAL = ProblemKind("internal-error", 500, "The server failed on this request")
STARTING = ProblemKind("starting", 503, "The server is starting")
DRAINING = ProblemKind("draining", 503, "The server is shutting down")
DEADLINE_PASSED = ProblemKind("deadline-passed", 504, "The request's deadline passed")

KINDS = (
    *(BAD_MULTIPART, NOT_AN_IMAGE, DAMAGED_IMAGE, NO_SUCH_MODEL, TOO_MANY_BYTES, TOO_MANY_PIXELS, UNSUPPORTED_TYPE),
    *(UNSUPPORTED_FORMAT, INVALID_PARAMETER, QUEUE_FULL, INTERNAL, STARTING, DRAINING, DEADLINE_PASSED),
)


@dataclass(eq=False)
class Problem(Exception):
    """Raise it anywhere under a request. `detail` says what was wrong and what to do; `extra` adds members."""

    kind: ProblemKind
    detail: str
    retry_after: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind.slug}: {self.detail}"


def problem_response(problem: Problem) -> Response:
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    return _response(problem.kind.type, problem.kind.title, problem.kind.status, problem.detail, headers, problem.extra)


def install(app: FastAPI) -> None:
    """Answer every exception of `app`, FastAPI's and Starlette's own included, as a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def unexpected(error: Exception, what: str) -> Response:
    """Log `error` with its stack trace and answer 500 without it."""
    logger.error("%s failed", what, exc_info=error)
    return problem_response(Problem(INTERNAL, "An unexpected error; the server's log has the details."))


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # nobody reads it


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"parameter": ".".join(map(str, e["loc"][1:])), "message": _message(e)} for e in error.errors()]
    detail = "; ".join(f"{e['parameter']}: {e['message']}" for e in errors)
    return problem_response(Problem(INVALID_PARAMETER, detail, extra={"errors": errors}))


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such parameter; GET /docs lists them"
    return str(error["msg"]).removeprefix("Input ")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    # Starlette's own: unknown path, method not allowed. RFC 9457 gives them the type "about:blank".
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {title.lower()}; GET /docs lists what there is."
    return _response("about:blank", title, error.status_code, detail, error.headers or {}, {})


def _response(
    type_: str, title: str, status: int, detail: str, headers: Mapping[str, str], extra: Mapping[str, Any]
) -> Response:
    body = orjson.dumps({"type": type_, "title": title, "status": status, "detail": detail, **extra})
    return Response(body, status, dict(headers), MEDIA_TYPE)
