"""What FastAPI cannot infer for /docs: the image body, and the errors of every route as problem+json."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from model.runtime.analysis.file_types import FILE_TYPES
from model.runtime.bundles.manifest import Precision
from service.http.problems import DAMAGED_IMAGE, KINDS, MEDIA_TYPE, ProblemKind
from service.routes.files import IMAGE, PRECISION, TRUNCATED
from service.routes.schemas import (
    BatchItem,
    BatchPrediction,
    CocoResult,
    DetectionLine,
    EndLine,
    ErrorLine,
    HeadLine,
    PlaneItem,
    PlanesPrediction,
    Prediction,
    ProblemBody,
    ProgressLine,
    SeveralLine,
)
from service.routes.streams import NDJSON
from service.routes.v2.repository import IndexBody, LoadBody, UnloadBody
from service.routes.v2.schemas import InferRequestBody, InferResponseBody

DESCRIPTION = """
Instance segmentation, detection and keypoints over HTTP.

Errors are `application/problem+json` (RFC 9457). Their `type` is stable; `detail` says what was wrong and what to do.
"""

Responses = dict[int | str, dict[str, Any]]

_DESCRIPTIONS = {
    400: "Not an image, a damaged image, or a body that cannot be used",
    401: "The server has API keys and the request brought none that matches",
    403: "This needs a key for administration",
    404: "No such model or version",
    408: "The body took too long to arrive",
    409: "The new version cannot be served and the old one stays, or a pinned one was to be unloaded",
    413: "Too many bytes, or too many pixels: refused from the header, before decoding",
    415: "A content type, content encoding or image format that is not accepted",
    422: "A parameter is unknown or out of range",
    429: "Too much work is waiting; try again after `Retry-After` seconds",
    500: "The server failed on this request",
    503: "Starting, shutting down or without a model; try again after `Retry-After` seconds",
    504: "The request's deadline passed",
    507: "The body is too large to be kept in memory, and the server cannot write a temporary file",
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


_IMAGE = {"type": "string", "format": "binary"}
_BLACK_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAAAAACWpiEsAAAAC0lEQVR42mNgIAwAACQAASXCqOMAAAAASUVORK5CYII="
"""An image of 8 x 4 pixels."""
_RAW = {"image/*": {"schema": _IMAGE}, "application/octet-stream": {"schema": _IMAGE}}


def _multipart(file: dict[str, Any]) -> dict[str, Any]:
    return {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": file},
                "additionalProperties": False,
            },
            "encoding": {"file": {"contentType": "image/*"}},
        }
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


IMAGE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {**_multipart({**_IMAGE, "description": "the image"}), **_RAW}}
}
BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": _multipart({"type": "array", "items": _IMAGE, "minItems": 1, "description": "the images"}) | _RAW,
    }
}
INFER_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "Bytes of the JSON that the body begins with. Needed if binary tensors follow it; 0: there "
            "is no JSON and the body is one image file.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
                "example": {
                    "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [_BLACK_PNG]}],
                    "outputs": [{"name": "BOXES"}, {"name": "SCORES"}],
                    "parameters": {"score_threshold": 0.5},
                },
            },
            "application/octet-stream": {"schema": _IMAGE},
        },
    },
}

LOAD_BODY: dict[str, Any] = {"requestBody": {"content": _json("LoadRequest")}}
INDEX_BODY: dict[str, Any] = {"requestBody": {"content": _json("IndexRequest")}}
UNLOAD_BODY: dict[str, Any] = {"requestBody": {"content": _json("UnloadRequest")}}

_PREDICTING = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504, 507)
_PREDICTION = Prediction.model_config["json_schema_extra"]["example"]  # type: ignore[index]  # typed as any JSON
_COCO_RESULT = {
    "image_id": 0,
    "category_id": 1,
    "bbox": [1.0, 1.0, 3.0, 2.0],
    "score": 0.98,
    "segmentation": {"size": [4, 8], "counts": "522000?"},
}
_GEOJSON: dict[str, Any] = {
    "type": "object",
    "required": ["type", "truncated", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "truncated": {"type": "boolean"},
        "features": {"type": "array", "items": {"type": "object", "required": ["type", "geometry", "properties"]}},
    },
}
_PRECISION: dict[str, Any] = {
    PRECISION: {
        "description": "what the network computed in, also where the body has no `model.precision`",
        "schema": {"type": "string", "enum": list(get_args(Precision))},
    }
}


def _lines(*kinds: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI 3.1 has no word for bodies of lines: the schema is that of each."""
    alternatives = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]
    return {NDJSON: {"schema": {"description": "each line", "anyOf": alternatives}}}


PREDICT_RESPONSES: Responses = {
    200: {
        "description": "The detections; with `format=coco` a list of COCO results, with other formats a file; as "
        "image/png, if the client accepts that, the picture with the detections drawn on it; as application/x-ndjson "
        "lines of JSON that are sent as they are made; with `planes=all` an answer for each plane",
        "headers": _PRECISION
        | {
            TRUNCATED: {
                "description": "of a file, COCO results or a picture: what `truncated` says of the detections in JSON",
                "schema": {"type": "string", "enum": ["true", "false"]},
            },
            IMAGE: {
                "description": "of COCO results or a picture: what `image` says in JSON, as JSON",
                "schema": {"type": "string"},
            },
            "Content-Disposition": {
                "description": "of a file: its name, which is the image's with another ending",
                "schema": {"type": "string"},
            },
        },
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Prediction"},
                        {"type": "array", "items": {"$ref": "#/components/schemas/CocoResult"}},
                        {"$ref": "#/components/schemas/PlanesPrediction"},
                    ]
                },
                "examples": {"maskserve": {"value": _PREDICTION}, "coco": {"value": [_COCO_RESULT]}},
            },
            **_lines(ProgressLine, HeadLine, DetectionLine, SeveralLine, PlaneItem, EndLine, ErrorLine),
            "image/png": {"schema": _IMAGE},
            FILE_TYPES["geojson"].media_type: {"schema": _GEOJSON},
            FILE_TYPES["csv"].media_type: {"schema": {"type": "string"}},
            FILE_TYPES["imagej"].media_type: {"schema": _IMAGE},
            FILE_TYPES["labels"].media_type: {"schema": _IMAGE},
        },
    },
    **problem_responses(*_PREDICTING),
}
BATCH_RESPONSES: Responses = {
    200: {
        "model": BatchPrediction,
        "description": "An answer for each image, in order",
        "headers": _PRECISION,
        "content": {
            "application/json": {
                "example": {
                    "answers": [
                        {"file": "good.png", "status": 200, "prediction": _PREDICTION},
                        {"file": "bad.png", "status": 400, "problem": _example(DAMAGED_IMAGE)},
                    ]
                }
            },
            **_lines(SeveralLine, BatchItem, EndLine, ErrorLine),
        },
    },
    **problem_responses(*_PREDICTING),
}
INFER_RESPONSES: Responses = {
    200: {
        "description": "The output tensors: as JSON or, if any of them is binary, JSON with those behind it",
        "headers": {
            "Inference-Header-Content-Length": {
                "description": "bytes of the JSON, if binary tensors follow it",
                "schema": {"type": "integer", "minimum": 1},
            }
        },
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferResponse"},
                "example": {
                    "model_name": "nuclei",
                    "model_version": "1",
                    "parameters": {
                        "precision": "f32",
                        "truncated": False,
                        "images": '[{"width":8,"height":4,"truncated":false}]',
                    },
                    "outputs": [
                        {"name": "BOXES", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 1.0, 4.0, 3.0]},
                        {"name": "SCORES", "datatype": "FP32", "shape": [1], "data": [0.98]},
                    ],
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    **problem_responses(*_PREDICTING),
}
MODEL_RESPONSES: Responses = problem_responses(401, 404, 422, 503)
RELOAD_RESPONSES: Responses = problem_responses(401, 403, 404, 409, 422, 503)
LOAD_RESPONSES: Responses = problem_responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 507)
UNLOAD_RESPONSES: Responses = LOAD_RESPONSES
METRICS_RESPONSES: Responses = {
    200: {"description": "In Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
    **problem_responses(401),
}

_REFERRED_TO: dict[str, type[BaseModel]] = {
    "Problem": ProblemBody,
    "Prediction": Prediction,
    "CocoResult": CocoResult,
    "InferRequest": InferRequestBody,
    "InferResponse": InferResponseBody,
    "IndexRequest": IndexBody,
    "LoadRequest": LoadBody,
    "UnloadRequest": UnloadBody,
    **{
        kind.__name__: kind
        for kind in (
            *(ProgressLine, HeadLine, DetectionLine, SeveralLine),
            *(PlaneItem, PlanesPrediction, BatchItem, EndLine, ErrorLine),
        )
    },
}
"""Schemas that the above refer to by name."""


_KEYS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "one of the server's keys, if it has any"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same in a header of its own"},
}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` contain the schemas that are referred to, the keys, and no parameters that may be null."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, model in _REFERRED_TO.items():
                definition = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(definition.pop("$defs", {}))
                schemas[name] = definition
            schema["components"]["securitySchemes"] = _KEYS
            # The first entry is none: whether keys are needed is the operator's choice.
            schema["security"] = [{}, *({name: []} for name in _KEYS)]
            for operations in schema["paths"].values():
                for operation in operations.values():
                    for parameter in operation.get("parameters", ()):
                        _forbid_null(parameter["schema"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI wants its schema extended


def _forbid_null(schema: dict[str, Any]) -> None:
    """A query cannot say null; a parameter that is left out means the same."""
    for alternative in schema.pop("anyOf", ()):
        if alternative != {"type": "null"}:
            schema.update(alternative)
