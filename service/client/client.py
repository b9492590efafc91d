"""The clients for programs. Both do the same; `AsyncClient`'s methods are awaited, under asyncio."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self, Unpack

import httpx
import orjson

from model.runtime.analysis.file_types import FileFormat
from service.client.attempts import Attempts
from service.client.calls import (
    MODELS,
    READY,
    Answer,
    Call,
    PredictOptions,
    checked,
    connection_options,
    named_failures,
    predict_call,
)
from service.client.errors import ClientError, ServerProblem
from service.client.images import ImageSource, encoded
from service.client.lines import Progress, Watch
from service.client.planes import PlaneAnswer, planes_from_json
from service.client.prediction import Prediction

URL = "http://127.0.0.1:8000"
TIMEOUT = 60.0
RETRIES = 5


class Client:
    """A server at `url`. May be used from several threads, and as a context manager; else `close` it.

    timeout: seconds for a whole call, retries and the waits between them included.
    retries: how often a request is sent again when that may help (see `attempts`).
    Its methods raise ClientError: ServerProblem when the server answered with an error, else UnreachableError,
    ConnectionLostError or TimedOutError. ValueError when `url` is no address or `api_key` cannot be one.
    """

    def __init__(
        self, url: str = URL, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        self.url = url
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.Client(**connection_options(url, api_key))

    def predict(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> Prediction:
        """Detect and segment the objects in an image: a path, an encoded image, uint8 RGB [H, W, 3] or a Pillow image.

        progress: is called with (done, of) while the server sees a large picture in tiles; the answer is the same.
        Also raises UnreadableFileError for a path.
        """
        return _parsed(self.predict_json(image, progress=progress, **options))

    def predict_json(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> bytes:
        """As `predict`, but the answer exactly as the server sent it, or would have sent it without `progress`."""
        return self._send(predict_call(encoded(image), options, progress=progress), self._retries).content

    def predict_planes(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> list[PlaneAnswer]:
        """As `predict`, but of every plane of a TIFF that `z`, `t`, `channel` and `channels` leave open, in the file's
        order. A bad plane has its own `problem`. progress: counts planes.
        """
        call = predict_call(encoded(image), options, planes=True, progress=progress)
        return planes_from_json(self._send(call, self._retries).content)

    def predict_file(self, image: ImageSource, format: FileFormat, **options: Unpack[PredictOptions]) -> Answer:
        """As `predict`, but the answer is a file for analysis tools, whose bytes are its `content`."""
        return self._send(predict_call(encoded(image), options, format), self._retries)

    def models(self) -> dict[str, Any]:
        """The answer of `GET /models`: `default`, and `models` with their `name`, `version`, `labels` and more."""
        answer: dict[str, Any] = orjson.loads(self._send(MODELS, self._retries).content)
        return answer

    def ready(self) -> bool:
        """Whether a model is loaded and warm right now. It asks once."""
        try:
            self._send(READY, retries=0)
        except ServerProblem as problem:
            if problem.status != 503:
                raise
            return False
        return True

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call, retries: int) -> Answer:
        attempts = Attempts(self._timeout, retries, call.has_deadline)
        while True:
            try:
                return self._try(call, attempts)
            except ClientError as failure:
                time.sleep(attempts.wait_after(failure))

    def _try(self, call: Call, attempts: Attempts) -> Answer:
        with (
            named_failures(self.url, attempts),
            self._http.stream(
                call.method,
                call.path,
                params=call.params,
                headers=call.headers,
                content=call.content,
                timeout=attempts.patience(),
            ) as response,
        ):
            watch, pieces = Watch(call.progress), []
            for piece in attempts.in_time(response.iter_bytes()):
                watch.add(piece)
                pieces.append(piece)
            return checked(response, b"".join(pieces), call.answer)


class AsyncClient:
    """As `Client`, with methods to be awaited. It belongs to one event loop."""

    def __init__(
        self, url: str = URL, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        self.url = url
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.AsyncClient(**connection_options(url, api_key))

    async def predict(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> Prediction:
        """As `Client.predict`. What takes time besides waiting is done on another thread."""
        return await asyncio.to_thread(_parsed, await self.predict_json(image, progress=progress, **options))

    async def predict_json(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> bytes:
        """As `Client.predict_json`."""
        call = predict_call(await asyncio.to_thread(encoded, image), options, progress=progress)
        return (await self._send(call, self._retries)).content

    async def predict_planes(
        self, image: ImageSource, *, progress: Progress | None = None, **options: Unpack[PredictOptions]
    ) -> list[PlaneAnswer]:
        """As `Client.predict_planes`."""
        call = predict_call(await asyncio.to_thread(encoded, image), options, planes=True, progress=progress)
        return await asyncio.to_thread(planes_from_json, (await self._send(call, self._retries)).content)

    async def predict_file(self, image: ImageSource, format: FileFormat, **options: Unpack[PredictOptions]) -> Answer:
        """As `Client.predict_file`."""
        call = predict_call(await asyncio.to_thread(encoded, image), options, format)
        return await self._send(call, self._retries)

    async def models(self) -> dict[str, Any]:
        """As `Client.models`."""
        answer: dict[str, Any] = orjson.loads((await self._send(MODELS, self._retries)).content)
        return answer

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            await self._send(READY, retries=0)
        except ServerProblem as problem:
            if problem.status != 503:
                raise
            return False
        return True

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: Call, retries: int) -> Answer:
        attempts = Attempts(self._timeout, retries, call.has_deadline)
        while True:
            try:
                return await self._try(call, attempts)
            except ClientError as failure:
                wait = attempts.wait_after(failure)
            await asyncio.sleep(wait)

    async def _try(self, call: Call, attempts: Attempts) -> Answer:
        with named_failures(self.url, attempts):
            watch, pieces = Watch(call.progress), []
            async with (
                asyncio.timeout(attempts.remaining),
                self._http.stream(
                    call.method,
                    call.path,
                    params=call.params,
                    headers=call.headers,
                    content=call.content,
                    timeout=attempts.patience(),
                ) as response,
            ):
                async for piece in response.aiter_bytes():
                    watch.add(piece)
                    pieces.append(piece)
        if call.progress is None:
            return checked(response, b"".join(pieces), call.answer)
        return await asyncio.to_thread(checked, response, b"".join(pieces), call.answer)


def _parsed(answer: bytes) -> Prediction:
    return Prediction.from_json(orjson.loads(answer))
