"""What FastAPI cannot infer for /docs: the image body, and the errors of every route as problem+json."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.problems import KINDS, MEDIA_TYPE, ProblemKind
from service.schemas import Prediction, ProblemBody

DESCRIPTION = """
Instance segmentation, detection and keypoints over HTTP.

Errors are `application/problem+json` (RFC 9457). Their `type` is stable; `detail` says what was wrong and what to do.
"""

Responses = dict[int | str, dict[str, Any]]

_DESCRIPTIONS = {
    400: "Not an image, a damaged image, or a bad multipart body",
    404: "No such model or version",
    413: "Too many bytes, or too many pixels: refused from the header, before decoding",
    415: "A content type or image format that is not accepted",
    422: "A parameter is unknown or out of range",
    429: "The queue is full; try again after `Retry-After` seconds",
    500: "The server failed on this request",
    503: "Starting or shutting down; try again after `Retry-After` seconds",
    504: "The request's deadline passed",
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}}


def problem_responses(*statuses: int) -> Responses:
    """The `responses` of a route that answers with these errors."""
    return {status: _problem_response(status) for status in statuses}


def _problem_response(status: int) -> dict[str, Any]:
    examples = {kind.slug: {"value": _example(kind)} for kind in KINDS if kind.status == status}
    schema = {"$ref": "#/components/schemas/Problem"}
    response: dict[str, Any] = {
        "description": _DESCRIPTIONS[status],
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    if status in (429, 503):
        response["headers"] = _RETRY_AFTER
    return response


def _example(kind: ProblemKind) -> dict[str, Any]:
    return {"type": kind.type, "title": kind.title, "status": kind.status, "detail": "What was wrong and what to do."}


IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "the image"}},
                    "additionalProperties": False,
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

PREDICT_RESPONSES: Responses = {
    200: {"model": Prediction, "description": "The detections"},
    **problem_responses(400, 404, 413, 415, 422, 429, 500, 503, 504),
}
MODEL_RESPONSES: Responses = problem_responses(404, 422, 503)


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` contain the Problem schema that the responses refer to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
            )
            problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.setdefault("components", {}).setdefault("schemas", {})["Problem"] = problem
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI wants its schema extended
