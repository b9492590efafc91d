"""POST /predict and POST /predict/batch."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from model.runtime.analysis.file_types import FILE_TYPES
from model.runtime.images.data import Data
from model.runtime.images.planes import OnePlane, Planes
from service.http.accept import preference
from service.http.gzipped import compress
from service.http.multipart import File
from service.http.problems import Problem, internal_error, problem_body
from service.http.uploads import Upload
from service.http.waiting import while_connected
from service.models.catalog import ServedModel
from service.prediction.answers import Detected, coco_results, image_said, picture, plane_said, prediction, to_json
from service.prediction.decoding import Job
from service.prediction.intake import Visit, visit
from service.prediction.lines import Several, end_line, head_of_several, progress_line
from service.prediction.parameters import BatchQuery, Options, PredictQuery
from service.prediction.planes import SECONDS_PER_PLANE, find_planes, in_order, planes_at_once
from service.routes.direct import DirectRoute
from service.routes.files import IMAGE, PRECISION, TRUNCATED, FileBody, begin_file, file_response
from service.routes.openapi import BATCH_BODY, BATCH_RESPONSES, IMAGE_BODY, PREDICT_RESPONSES
from service.routes.streams import HEARTBEAT, NDJSON, Lines, PictureLines, begin_lines
from service.scheduling.gate import Deadline

JSON = "application/json"
PNG = "image/png"
LIGHT_MASKS = ("rle", "none")
"""What of masks is there already; the others are made of it."""

logger = logging.getLogger(__name__)
router = APIRouter(tags=["prediction"], route_class=DirectRoute)


@router.post(
    "/predict",
    summary="Detect and segment the objects in one image",
    openapi_extra=IMAGE_BODY,
    responses=PREDICT_RESPONSES,
    response_class=Response,
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """The image goes into a multipart part named `file`, or is the whole body, as `image/*`, as
    `application/octet-stream` or without a content type.

    The answer's columns stand side by side in falling score; coordinates are pixels of the image as seen (EXIF
    orientation applied). With `Accept: image/png` or `image/*` it is the picture with the detections drawn on it,
    unless `format` asks for a file. With `Accept: application/x-ndjson` it is lines of JSON: how far a picture in tiles
    is, then what stands around the detections, then one detection a line, and `{"end": ...}`, or `{"error": ...}` where
    something went wrong meanwhile.

    With `planes=all` each plane of a TIFF has an answer of its own, as each image of `/predict/batch`.
    """
    if query.planes is not None:
        return await _predict_planes(request, query)
    if query.format == "maskserve" and _prefers(request, NDJSON):
        return await _predict_in_lines(request, query)
    file_format = query.file_format
    wants_picture = file_format is None and _prefers(request, PNG)
    image_name = ""

    def content() -> Data:
        nonlocal image_name
        file = upload.file()
        image_name = file.name
        return file.content

    with _visit(request, query) as visitor:
        options = query.options(visitor.model)
        upload = await visitor.receive()
        async with visitor.admitted() as deadline:
            job = visitor.job(
                content,
                options,
                deadline,
                keep_image=wants_picture,
                keep_values=file_format is not None and FILE_TYPES[file_format].measured,
                is_light=file_format is None and not wants_picture and query.masks in LIGHT_MASKS,
            )

            def render(detected: Detected) -> FileBody | tuple[bytes, str | None, dict[str, str]]:
                if file_format is not None:
                    return begin_file(detected, file_format)
                if wants_picture:
                    return picture(detected), None, _headers(detected)
                body = compress(_answer(detected, query, query.image_id), visitor.accept_encoding)
                return *body, _headers(detected) if query.format == "coco" else {}

            rendered = await while_connected(request, visitor.pipeline.predict(job, render))
        if isinstance(rendered, FileBody):
            return file_response(visitor, rendered, image_name)
        body, encoding, headers = rendered
    return _response(body, PNG if wants_picture else JSON, encoding, visitor.model, headers)


@router.post(
    "/predict/batch",
    summary="Detect and segment the objects in several images",
    openapi_extra=BATCH_BODY,
    responses=BATCH_RESPONSES,
    response_class=Response,
)
async def predict_batch(request: Request, query: Annotated[BatchQuery, Query()]) -> Response:
    """Each image goes into a multipart part named `file`. The answers stand in the same order; a bad image fails alone.

    An item is as in `/predict`: a `prediction`, or a `problem` with its own `status`. With
    `Accept: application/x-ndjson` each is a line that is sent when it is ready.
    """
    if _prefers(request, NDJSON):
        return await _predict_batch_in_lines(request, query)
    with _visit(request, query) as visitor:
        options = query.options(visitor.model)
        most = visitor.lifecycle.settings.batch_images
        files = await visitor.receive_parsed(lambda upload: upload.files(most))
        async with visitor.admitted(len(files)) as deadline:
            works = _files(visitor, files, query, options, deadline)
            return await _answers(visitor, in_order(works))


async def _predict_batch_in_lines(request: Request, query: BatchQuery) -> Response:
    async with AsyncExitStack() as held:
        visitor = held.enter_context(_visit(request, query))
        options = query.options(visitor.model)
        most = visitor.lifecycle.settings.batch_images
        files = await visitor.receive_parsed(lambda upload: upload.files(most))
        deadline = await held.enter_async_context(visitor.admitted(len(files)))
        items = in_order(_files(visitor, files, query, options, deadline), patience=HEARTBEAT)
        return await begin_lines(visitor, held, _item_lines(visitor, items, "images", len(files)))


async def _predict_in_lines(request: Request, query: PredictQuery) -> Response:
    async with AsyncExitStack() as held:
        visitor = held.enter_context(_visit(request, query))
        options = query.options(visitor.model)
        upload = await visitor.receive()
        deadline = await held.enter_async_context(visitor.admitted())
        job = visitor.job(lambda: upload.file().content, options, deadline)
        answer = PictureLines(visitor, job, query.masks)
        return await begin_lines(visitor, held, answer.working(), answer.found)


async def _predict_planes(request: Request, query: PredictQuery) -> Response:
    """An answer for each plane, as `_predict_files` gives one for each image."""
    async with AsyncExitStack() as held:
        visitor = held.enter_context(_visit(request, query))
        options = query.options(visitor.model)

        def parse(upload: Upload) -> tuple[Data, Planes]:
            data = upload.file().content
            return data, find_planes(visitor, data, options.plane)

        data, planes = await visitor.receive_parsed(parse, of_several="")
        deadline = await held.enter_async_context(visitor.admitted())
        if visitor.patient:
            deadline.extend(SECONDS_PER_PLANE * (len(planes.planes) - 1))

        async def answer(index: int, plane: OnePlane) -> bytes:
            job = visitor.job(lambda: data, replace(options, plane=plane.choice), deadline)
            return await _item(visitor, job, query, query.image_id + index, {"plane": plane_said(plane.axes)})

        works = (partial(answer, index, plane) for index, plane in enumerate(planes.planes))
        at_once = planes_at_once(visitor, planes)
        if _prefers(request, NDJSON):
            items = in_order(works, at_once, HEARTBEAT)
            return await begin_lines(visitor, held, _item_lines(visitor, items, "planes", len(planes.planes)))
        return await _answers(visitor, in_order(works, at_once))


async def _answers(visitor: Visit, items: AsyncGenerator[bytes | None, None]) -> Response:
    """All of them in one JSON."""

    async def gathered() -> list[orjson.Fragment]:
        async with aclosing(items):
            return [orjson.Fragment(item) async for item in items if item is not None]

    answers = await while_connected(visitor.request, gathered())
    (body, encoding), _ = await visitor.pipeline.postprocess_pool.run(
        lambda: compress(to_json({"answers": answers}), visitor.accept_encoding), visitor.priority
    )
    return _response(body, JSON, encoding, visitor.model)


async def _item_lines(visitor: Visit, items: AsyncGenerator[bytes | None, None], what: Several, count: int) -> Lines:
    """A head, each item when it is there, how many there are while the next takes long, and the end."""
    done = 0
    async with aclosing(items):
        yield head_of_several(visitor.model, what, count)
        async for item in items:
            if item is None:
                yield progress_line(what, done, count)
            else:
                yield item + b"\n"
                done += 1
    yield end_line(what, count)


def _files(
    visitor: Visit, files: list[File], query: BatchQuery, options: Options, deadline: Deadline
) -> list[Callable[[], Coroutine[Any, Any, bytes]]]:
    jobs = [visitor.job(partial(_content, file), options, deadline) for file in files]
    return [
        partial(_item, visitor, job, query, query.image_id + index, {"file": file.name})
        for index, (job, file) in enumerate(zip(jobs, files, strict=True))
    ]


async def _item(
    visitor: Visit, job: Job, query: PredictQuery | BatchQuery, image_id: int, lead: dict[str, Any]
) -> bytes:
    """The item of one image, whatever becomes of it; it begins with `lead`, which says which one it is."""

    def render(detected: Detected) -> bytes:
        # Of a color image, the plane that was asked for may be one of its channels.
        named = {"plane": plane_said(detected.plane)} if "plane" in lead else lead
        # COCO results have no place for it, and an item has no headers.
        besides = (
            {"image": image_said(detected), "truncated": detected.seen.truncated} if query.format == "coco" else {}
        )
        answer = orjson.Fragment(_answer(detected, query, image_id))
        return to_json({**named, "status": 200, **besides, "prediction": answer})

    try:
        return await visitor.pipeline.predict(job, render)
    except Problem as failed:
        problem = failed
    except Exception as error:  # the other images' answers are good; this one's client gets no stack trace
        logger.error("an image of several failed", exc_info=error)
        problem = internal_error()
    return to_json({**lead, "status": problem.kind.status, "problem": problem_body(problem)})


def _visit(request: Request, query: PredictQuery | BatchQuery) -> AbstractContextManager[Visit]:
    timeout = None if query.timeout_ms is None else query.timeout_ms / 1e3
    return visit(request, query.model, query.version, query.priority, timeout)


def _answer(detected: Detected, query: PredictQuery | BatchQuery, image_id: int) -> bytes:
    if query.format == "coco":
        return to_json(coco_results(detected.detections, query.masks, image_id))
    return to_json(prediction(detected, query.masks))


def _content(file: File) -> Data:
    return file.content


def _prefers(request: Request, media_type: str) -> bool:
    """Whether the client prefers it to JSON."""
    accept = ", ".join(request.headers.getlist("accept"))
    return preference(accept, media_type) > preference(accept, JSON)


def _headers(detected: Detected) -> dict[str, str]:
    """What JSON says around the detections, for answers that have no place for it."""
    return {TRUNCATED: str(detected.seen.truncated).lower(), IMAGE: to_json(image_said(detected)).decode()}


def _response(
    body: bytes,
    media_type: str,
    encoding: str | None,
    model: ServedModel,
    own: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    headers = {"Vary": "Accept, Accept-Encoding", PRECISION: model.precision, **own}
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    return Response(body, media_type=media_type, headers=headers)
