"""A running maskserve, asked for a dataset's detections over HTTP, by the standard library alone.

Numbers and masks travel exactly, so that its figures are those of the bundle that it serves.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from model.architecture import Task
from model.runtime.bundles.manifest import ServingDefaults
from model.runtime.detections import RLE, Detections
from training.data.annotations.dataset import Dataset
from training.data.annotations.records import ImageRecord
from training.data.loading.stored_file import stored_file

KEY_VARIABLE = "MASKSERVE_CLIENT_KEY"
"""The one that `service.client` reads."""
PARALLEL = 4
"""Requests at a time: enough to fill the server's batches, few enough to leave others their share."""
TIMEOUT = 120.0
"""Seconds without a byte after which a request is given up."""
PATIENCE = 600.0
"""Seconds that one image is sent again for while the server is busy."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds between tries: without Retry-After they double from one to the other."""

_T = TypeVar("_T")

_BUSY = (429, 503)


class RemoteError(Exception):
    """The server cannot be reached, refuses, or answers what no maskserve does; the message says which."""


class ServedModel(BaseModel):
    """What `GET /models/NAME` says, as far as an evaluation needs it. labels: id -> name."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    task: Task
    labels: dict[int, str]
    defaults: ServingDefaults


class _Rle(BaseModel):
    size: tuple[int, int]
    counts: str


class _Answer(BaseModel):
    """What `POST /predict` says."""

    boxes: list[tuple[float, float, float, float]]
    label_ids: list[int]
    scores: list[float]
    masks: list[_Rle] | None = None
    keypoints: list[list[tuple[float, float, float]]] | None = None


class RemoteModel:
    """One model of a running server.

    url: the server's address, for the model that answers by default, or that and `/models/NAME`. A key is taken from
    MASKSERVE_CLIENT_KEY. The version is settled at the start, so that a reload in between changes no figures.
    Raises RemoteError.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise RemoteError(f"{url} is no server's address; give one such as http://127.0.0.1:8000")
        path, _, name = parts.path.rstrip("/").partition("/models/")
        self._base = f"{parts.scheme}://{parts.netloc}{path}"
        self.model = self._find(name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 1, 2, ..."""
        return tuple(self.model.labels[label] for label in sorted(self.model.labels))

    def detect(
        self,
        data: Dataset,
        *,
        max_detections: int,
        score_threshold: float,
        progress: Callable[[int], None] | None = None,
    ) -> list[Detections]:
        """Detections of each image of `data`, in its order; a few requests run at a time. Waits while the server is
        busy. Raises RemoteError, and UnreadableImage for a broken file; the requests that have not begun are not made.
        """
        wishes = {
            "model": self.model.name,
            "version": self.model.version,
            "masks": "rle",
            "score_threshold": score_threshold,
            "max_detections": max_detections,
            "priority": "bulk",
        }
        lock, stopped, done = threading.Lock(), threading.Event(), 0

        def detect_one(record: ImageRecord) -> Detections:
            nonlocal done
            found = self._predict(record, wishes, stopped)
            with lock:
                done += 1
                if progress is not None:
                    progress(done)
            return found

        with ThreadPoolExecutor(PARALLEL, "evaluate") as pool:
            futures = [pool.submit(detect_one, record) for record in data.images]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _find(self, name: str) -> ServedModel:
        if not name:
            listing = self._ask(Request(f"{self._base}/models", headers=_headers()))
            name = _checked(TypeAdapter(dict[str, Any]), listing, self._base).get("default", "")
        details = self._ask(Request(f"{self._base}/models/{quote(name, safe='')}", headers=_headers()))
        return _checked(TypeAdapter(ServedModel), details, self._base)

    def _predict(self, record: ImageRecord, wishes: dict[str, Any], stopped: threading.Event) -> Detections:
        body = stored_file(record)
        headers = _headers() | {"Content-Type": "image/png"}  # any image type will do: the server looks at the bytes
        url = f"{self._base}/predict?{urlencode(wishes)}"
        try:
            answer = _checked(TypeAdapter(_Answer), self._ask(Request(url, body, headers), stopped), self._base)
        except RemoteError as error:
            raise RemoteError(f"{record.path}: {error}") from error
        return _detections(answer)

    def _ask(self, request: Request, stopped: threading.Event | None = None) -> bytes:
        """The body of a 200. Tries again while the server is busy, until `stopped` is set."""
        stopped = stopped or threading.Event()
        give_up, wait = time.monotonic() + PATIENCE, FIRST_WAIT
        while True:
            try:
                with urlopen(request, timeout=TIMEOUT) as response:  # nosec B310  # http and https alone, see above
                    body: bytes = response.read()
                    return body
            except HTTPError as error:
                with error:
                    said = _problem(error)
                asked = _retry_after(error.headers)
                pause = wait if asked is None else max(asked, FIRST_WAIT)
                if error.code not in _BUSY or time.monotonic() + pause > give_up:
                    raise RemoteError(f"{self._base} answered {error.code}: {said}") from error
            except (URLError, HTTPException, OSError) as error:
                reason = error.reason if isinstance(error, URLError) else error
                raise RemoteError(f"{self._base} cannot be reached or broke off: {reason}") from error
            if stopped.wait(pause):
                raise RemoteError(f"{self._base} was busy, and is not asked again as another image failed")
            wait = min(2 * wait, LONGEST_WAIT)


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    return {"Accept": "application/json"} | ({"X-API-Key": key} if key else {})


def _detections(answer: _Answer) -> Detections:
    count = len(answer.scores)
    masks, keypoints = answer.masks, answer.keypoints
    return Detections(
        np.array(answer.boxes, np.float32).reshape(count, 4),
        np.array(answer.scores, np.float32),
        np.array(answer.label_ids, np.int64),
        None if masks is None else [RLE(mask.size, mask.counts.encode("ascii")) for mask in masks],
        # Of no detections the number of keypoints is unknown, and of no interest.
        None if keypoints is None else np.array(keypoints, np.float32).reshape(count, -1 if count else 0, 3),
    )


def _checked(adapter: TypeAdapter[_T], body: bytes, base: str) -> _T:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RemoteError(f"{base} does not answer as a maskserve does: {where} {first['msg']}".strip()) from error


def _problem(error: HTTPError) -> str:
    """The server's own words (RFC 9457), or the status's."""
    try:
        problem = json.loads(error.read())
    except (ValueError, OSError, HTTPException):
        problem = None
    return str(problem["detail"]) if isinstance(problem, dict) and "detail" in problem else str(error.reason)


def _retry_after(headers: Message) -> float | None:
    """Seconds; None without a number of them."""
    value = headers.get("Retry-After", "").strip()
    return float(value[:9]) if value.isascii() and value.isdigit() else None
