"""GET / and /page/...: the web page, its modules, style and samples. It needs no key; what it asks the API does."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles

PAGE = Path(__file__).resolve().parents[1] / "page"
SAMPLES = Path(__file__).resolve().parents[2] / "model" / "samples" / "nuclei"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: nothing inline, and nothing from another host."""

# By suffix rather than from the system's table, which may call a module text/plain; a browser would refuse to run it.
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}

_page, _style, _samples = (StaticFiles(directory=folder) for folder in (PAGE, PAGE / "style", SAMPLES))

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index(request: Request) -> Response:
    prefix = request.scope["root_path"]
    if not prefix:
        return await send_file(_page, "index.html", "text/html", request, {"Content-Security-Policy": POLICY})
    # A proxy that cuts the prefix off does not tell whether the visitor's address ends with a slash, and without it the
    # page's links would lead out of the prefix.
    text = await run_in_threadpool((PAGE / "index.html").read_text, encoding="utf-8")
    text = text.replace("<head>", f'<head>\n    <base href="{escape(prefix)}/">', 1)
    policy = POLICY.replace("base-uri 'none'", "base-uri 'self'")
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@router.get("/page/{name}")
async def part(request: Request, name: str) -> Response:
    return await send_file(_page, name, MEDIA_TYPES.get(Path(name).suffix), request)


@router.get("/page/style/{name}")
async def style(request: Request, name: str) -> Response:
    return await send_file(_style, name, MEDIA_TYPES.get(Path(name).suffix), request)


@router.get("/page/samples/{name}")
async def sample(request: Request, name: str) -> Response:
    return await send_file(_samples, name, MEDIA_TYPES.get(Path(name).suffix), request)


async def send_file(
    folder: StaticFiles, name: str, media_type: str | None, request: Request, headers: dict[str, str] | None = None
) -> Response:
    """A file that the browser keeps, and asks about before it uses it again: a new release is seen at once."""
    if media_type is None:
        raise HTTPException(404)
    response = await folder.get_response(name, request.scope)
    if isinstance(response, FileResponse):
        response.media_type = media_type
        response.headers["Content-Type"] = media_type if media_type == "image/png" else f"{media_type}; charset=utf-8"
    if isinstance(response, FileResponse | NotModifiedResponse):
        response.headers["Cache-Control"] = "no-cache"
    response.headers.update(headers or {})
    return response
