"""What goes over the wire: requests for both clients, and what their answers and failures mean."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Literal, TypedDict

import httpx
import orjson

from model.runtime.analysis.file_types import FILE_TYPES, FileFormat
from service import VERSION
from service.client.attempts import Attempts
from service.client.errors import NOT_OURS, ConnectionLostError, ServerProblem, UnreachableError
from service.client.lines import NDJSON, Progress, assembled

MaskForm = Literal["rle", "rle_uncompressed", "polygon", "none"]
IntensityMode = Literal["auto", "full-range", "min-max", "percentile"]

JSON = "application/json"
IMAGE = "image/x-any"
"""The server wants image/* and tells the format from the bytes."""
IDLE_SECONDS = 30.0
"""How long an unused connection is kept: shorter than the server keeps it, so it is rarely closed under a request."""


class PredictOptions(TypedDict, total=False):
    """What may be asked for; what is left out, or None, is up to the server.

    score_threshold: detections score more than this, 0 to 1. max_detections: at most this many, the best.
    labels: only these, by name. intensity, low, high: how values become 8 bits; without `intensity`, low and high are
    values of the file. page, or z, t and channel: which plane of a TIFF, from 0; channel: of an RGB image, too.
    channels: which of the file's channels each input of the network is, from 0, None for black.
    masks: how the server sends them, which `Prediction` hides; "none" saves time.
    model, version: default the server's own model and its newest version. priority: "interactive" goes before "bulk".
    pixel_size_um: micrometers from one pixel to the next, whatever the file says.
    tile: "auto", "off" or a side in pixels, and overlap in pixels: how large pictures are cut into tiles.
    scale: what the picture is resized by before the network sees it; or object_diameter: how many pixels across objects
    are, from which the server finds the scale.
    timeout_ms: the server drops the request when it is not answered so many milliseconds after its upload.
    """

    score_threshold: float | None
    max_detections: int | None
    labels: Sequence[str]
    masks: MaskForm
    intensity: IntensityMode | None
    low: float | None
    high: float | None
    page: int | None
    z: int | None
    t: int | None
    channel: int | None
    channels: Sequence[int | None] | None
    model: str | None
    version: int | None
    priority: Literal["interactive", "bulk"] | None
    timeout_ms: float | None
    pixel_size_um: float | None
    tile: str | int | None
    overlap: int | None
    scale: float | None
    object_diameter: float | None


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `has_deadline`: it carries one of its own, after which the server drops it. `answer`: the media type
    of what comes back if all is well, which may be lines where JSON is meant. `progress`: is told how far it is."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    has_deadline: bool = False
    answer: str = JSON
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sent. `truncated`: of a file, that a limit cut detections off, or may have."""

    content: bytes
    truncated: bool = False


READY: Final = Call("GET", "/readyz")
MODELS: Final = Call("GET", "/models")


def predict_call(
    image: bytes,
    options: PredictOptions,
    format: FileFormat | None = None,
    *,
    planes: bool = False,
    progress: Progress | None = None,
) -> Call:
    """`image` is an encoded one, `format` that of a file. planes: all that the options leave open have an answer each.
    progress: then the answer is asked for in lines, which tell it.

    TypeError when an option has a name that there isn't.
    """
    if unknown := sorted(options.keys() - PredictOptions.__annotations__.keys()):
        known = ", ".join(PredictOptions.__annotations__)
        raise TypeError(f"predict() has no option {', '.join(unknown)}; it has {known}")
    if isinstance(options.get("labels"), str):
        raise TypeError("labels is a string; give a sequence of names")
    params = {name: value for name, value in options.items() if value is not None}
    if (channels := options.get("channels")) is not None:
        params["channels"] = ",".join("" if index is None else str(index) for index in channels)
    if planes:
        params["planes"] = "all"
    headers, answer = {"Content-Type": IMAGE}, JSON
    if progress is not None:
        headers["Accept"] = f"{NDJSON}, {JSON};q=0.5"
    if format is not None:
        params["format"], answer = format, FILE_TYPES[format].media_type
        headers["Accept"] = answer
    return Call("POST", "/predict", params, headers, image, "timeout_ms" in params, answer, progress)


def connection_options(url: str, api_key: str | None) -> dict[str, Any]:
    """What httpx's clients are made with. ValueError, which shows no key, when the address or the key cannot be one."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url {url!r}: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"url {url!r}: write it as http://HOST:PORT or https://HOST")
    headers = {"Accept": JSON, "User-Agent": f"maskserve-client/{VERSION}"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            raise ValueError("the API key is empty or has a character that is not printable ASCII")
        headers["X-API-Key"] = api_key  # Authorization may be a proxy's, whose user stands in the URL
    limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS)
    # Without TLS nobody asks for the certificates of authorities: to read them all takes longer than many an answer.
    return {"base_url": address, "headers": headers, "limits": limits, "verify": address.scheme == "https"}


def checked(response: httpx.Response, body: bytes, answer: str = JSON) -> Answer:
    """`body`, which is that of `response`, if it is an answer of the server of the media type `answer`. Of lines it is
    the JSON that they stand for.

    Raises ServerProblem; ConnectionLostError where lines end before their end.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == HTTPStatus.OK and kind == NDJSON and answer == JSON:
        return Answer(assembled(body))
    if response.status_code == HTTPStatus.OK and kind == answer:
        return Answer(body, response.headers.get("maskserve-truncated") == "true")
    status = response.status_code
    try:
        problem = orjson.loads(body) if kind.endswith("json") else None
    except orjson.JSONDecodeError:
        problem = None
    if isinstance(problem, dict) and {"type", "title", "detail"} <= problem.keys() and status >= 400:
        raise ServerProblem.from_json(status, problem, _retry_after(response))
    title = response.reason_phrase or "An unknown status"
    detail = f"{status} without a maskserve answer; is {response.url.copy_with(query=None)} a maskserve server?"
    if response.has_redirect_location:
        detail = f"{status} to {response.headers['location']}; use the address that it leads to"
    raise ServerProblem(status, NOT_OURS, title, detail, retry_after=_retry_after(response))


@contextmanager
def named_failures(url: str, attempts: Attempts) -> Iterator[None]:
    """httpx's errors become ClientErrors of one line."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UnreachableError(f"{url}: {_reason(error)}") from None
    except (httpx.TimeoutException, TimeoutError):
        raise attempts.timed_out() from None
    except httpx.RequestError as error:
        raise ConnectionLostError(f"{url}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What lies at the bottom of httpx's, httpcore's and anyio's exceptions, which say less the higher they are."""
    while below := _below(error):
        error = below
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)  # asyncio puts words of its own into strerror
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _below(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[-1]
    inside = error.args[0] if error.args else None
    return error.__cause__ or (inside if isinstance(inside, BaseException) else None)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds (RFC 9110, section 10.2.3: a number of them, or a date); None without a header that can be read."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
