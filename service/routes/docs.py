"""GET /docs and /docs/...: the API in Swagger UI. It opens without a key and asks for the one that the schema needs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from service.routes.page import MEDIA_TYPES, PAGE, POLICY, send_file

SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")

_docs = StaticFiles(directory=PAGE / "docs")
_swagger_ui = StaticFiles(directory=str(files("fastapi_swagger") / "resources"))

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return await send_file(_docs, "index.html", "text/html", request, {"Content-Security-Policy": POLICY})


@router.get("/docs/{name}")
async def docs_part(request: Request, name: str) -> Response:
    folder = _swagger_ui if name in SWAGGER_UI else _docs
    return await send_file(folder, name, MEDIA_TYPES.get(Path(name).suffix), request)
