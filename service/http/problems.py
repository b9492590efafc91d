"""Errors as the client sees them: RFC 9457 `application/problem+json` with a stable `type`, never a stack trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection; only metrics see it."""
MEDIA_TYPE = "application/problem+json"
URN = "urn:maskserve:problem:"
INFERENCE_PROTOCOL = "/v2"
PROBLEM = "problem"
"""Where a request's state holds the slug of the problem that it was answered with."""
ANSWERED = "answered"
"""Where it holds the status with which `protocol` has answered in the application's place."""
MOST_ERRORS = 20
"""Of a query's, which may have thousands of wrong parameters, as many are named."""

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
BAD_TENSORS = ProblemKind("bad-inference-request", 400, "The inference request cannot be used")
NOT_AN_IMAGE = ProblemKind("not-an-image", 400, "The upload is not an image")
DAMAGED_IMAGE = ProblemKind("damaged-image", 400, "The image is damaged or truncated")
BAD_ENCODING = ProblemKind("bad-content-encoding", 400, "The compressed body is damaged or truncated")
BAD_HTTP = ProblemKind("bad-http-request", 400, "The request is not valid HTTP")
UNAUTHORIZED = ProblemKind("unauthorized", 401, "An API key is needed")
FORBIDDEN = ProblemKind("forbidden", 403, "This API key does not allow that")
ADMINISTRATION_OFF = ProblemKind("administration-off", 403, "Administration is off")
NO_SUCH_MODEL = ProblemKind("no-such-model", 404, "No such model or version")
HEADER_TIMEOUT = ProblemKind("slow-headers", 408, "The request's head came too slowly")
SLOW_UPLOAD = ProblemKind("slow-upload", 408, "The upload took too long")
MODEL_REFUSED = ProblemKind("model-refused", 409, "The new version of the model cannot be served")
VERSION_PINNED = ProblemKind("version-pinned", 409, "The version is pinned")
TOO_MANY_BYTES = ProblemKind("too-many-bytes", 413, "The upload has too many bytes")
TOO_MANY_PIXELS = ProblemKind("too-many-pixels", 413, "The image has too many pixels")
UNSUPPORTED_TYPE = ProblemKind("unsupported-content-type", 415, "This content type is not accepted")
UNSUPPORTED_FORMAT = ProblemKind("unsupported-image-format", 415, "This image format is not accepted")
UNSUPPORTED_ENCODING = ProblemKind("unsupported-content-encoding", 415, "This content encoding is not accepted")
INVALID_PARAMETER = ProblemKind("invalid-parameter", 422, "A parameter is invalid")
QUEUE_FULL = ProblemKind("queue-full", 429, "The queue is full")
NO_TIME = ProblemKind("deadline-unreachable", 429, "There is too much work ahead of this request")
TOO_MANY_UPLOADS = ProblemKind("too-many-uploads", 429, "Too many uploads at once")
HEADERS_TOO_LARGE = ProblemKind("headers-too-large", 431, "The request's head is too large")
INTERNAL = ProblemKind("internal-error", 500, "The server failed on this request")
STARTING = ProblemKind("starting", 503, "The server is starting")
DRAINING = ProblemKind("draining", 503, "The server is shutting down")
NOTHING_SERVED = ProblemKind("nothing-served", 503, "No model is served")
REPOSITORY_UNREADABLE = ProblemKind("repository-unreadable", 503, "The model repository cannot be read")
OUT_OF_MEMORY = ProblemKind("out-of-memory", 503, "The device's memory cannot hold this image")
ENGINE_STALLED = ProblemKind("engine-stalled", 503, "The engine does not answer and is being replaced")
ENGINE_LOST = ProblemKind("engine-lost", 503, "A device has failed, and the server ends to be started again")
DEADLINE_PASSED = ProblemKind("deadline-passed", 504, "The request's deadline passed")
NO_STORAGE = ProblemKind("no-storage", 507, "The server has no room for this body")

KINDS = tuple(value for value in tuple(globals().values()) if isinstance(value, ProblemKind))
"""All of the above."""


@dataclass(eq=False)
class Problem(Exception):
    """Raise it anywhere under a request. `detail` says what was wrong and what to do; `extra` adds members."""

    kind: ProblemKind
    detail: str
    retry_after: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind.slug}: {self.detail}"


def problem_response(problem: Problem, scope: Scope | None = None) -> Response:
    """The answer to the request of `scope`, if there is one, whose state then knows the problem."""
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    if problem.kind.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    kind = problem.kind
    return _response(kind.type, kind.title, kind.status, problem.detail, headers, problem.extra, scope, kind.slug)


def install(app: FastAPI) -> None:
    """Answer every exception of `app`, FastAPI's and Starlette's own included, as a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def unexpected(error: Exception, scope: Scope) -> Response:
    """Log `error` with its stack trace and answer 500 without it."""
    logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return problem_response(internal_error(), scope)


def internal_error() -> Problem:
    return Problem(INTERNAL, "An unexpected error; the server's log has the details.")


def problem_body(problem: Problem) -> dict[str, Any]:
    """The members of the answer, for where it stands inside another."""
    kind = problem.kind
    return _body(kind.type, kind.title, kind.status, problem.detail, problem.extra)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, request.scope)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # nobody reads it


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors = [{"parameter": _parameter(e["loc"]), "message": _message(e)} for e in found[:MOST_ERRORS]]
    detail = "; ".join(f"{e['parameter']}: {e['message']}" for e in errors)
    if len(found) > MOST_ERRORS:
        detail += f"; and {len(found) - MOST_ERRORS} more"
    return problem_response(Problem(INVALID_PARAMETER, detail, extra={"errors": errors}), request.scope)


def _parameter(place: Sequence[str | int]) -> str:
    """Without where it stands, and without pydantic's names for the kinds of value that it may have."""
    _, *names = place
    return ".".join(str(name) for name in names if isinstance(name, int) or "[" not in name)


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such parameter; GET /docs lists them"
    return str(error["msg"]).removeprefix("Input ")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    # Starlette's own: unknown path, method not allowed. RFC 9457 gives them the type "about:blank".
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.scope['path']}: {title.lower()}; GET /docs lists what there is."
    headers = error.headers or {}
    return _response("about:blank", title, error.status_code, detail, headers, {}, request.scope, "about:blank")


def _body(type_: str, title: str, status: int, detail: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": type_, "title": title, "status": status, "detail": detail, **extra}


def _response(
    type_: str,
    title: str,
    status: int,
    detail: str,
    headers: Mapping[str, str],
    extra: Mapping[str, Any],
    scope: Scope | None,
    slug: str,
) -> Response:
    body = _body(type_, title, status, detail, extra)
    if scope is not None:
        if get_route_path(scope).startswith(INFERENCE_PROTOCOL):
            body["error"] = detail  # where the Open Inference Protocol's clients look for it
        scope.setdefault("state", {})[PROBLEM] = slug
    return Response(orjson.dumps(body), status, dict(headers), MEDIA_TYPE)
