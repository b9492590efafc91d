"""POST /predict and POST /predict/batch."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from model.runtime.analysis.file_types import FILE_TYPES
from model.runtime.images.data import Data
from service.http.accept import preference
from service.http.gzipped import compress
from service.http.multipart import File
from service.http.problems import Problem, internal_error, problem_response
from service.http.waiting import while_connected
from service.models.catalog import ServedModel
from service.prediction.answers import Detected, coco_results, picture, prediction, to_json
from service.prediction.intake import Visit, visit
from service.prediction.parameters import BatchQuery, Options, PredictQuery
from service.prediction.pipeline import Job
from service.routes.direct import DirectRoute
from service.routes.files import PRECISION, FileBody, begin_file, file_response
from service.routes.openapi import BATCH_BODY, BATCH_RESPONSES, IMAGE_BODY, PREDICT_RESPONSES
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
    unless `format` asks for a file.
    """
    file_format = query.file_format
    wants_picture = file_format is None and _wants_picture(request)
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

            def render(detected: Detected) -> FileBody | tuple[bytes, str | None]:
                if file_format is not None:
                    return begin_file(detected, file_format)
                if wants_picture:
                    return picture(detected), None
                return compress(_answer(detected, query, query.image_id), visitor.accept_encoding)

            rendered = await while_connected(request, visitor.pipeline.predict(job, render))
        if isinstance(rendered, FileBody):
            return file_response(visitor, rendered, image_name)
        body, encoding = rendered
    return _response(body, PNG if wants_picture else JSON, encoding, visitor.model)


@router.post(
    "/predict/batch",
    summary="Detect and segment the objects in several images",
    openapi_extra=BATCH_BODY,
    responses=BATCH_RESPONSES,
    response_class=Response,
)
async def predict_batch(request: Request, query: Annotated[BatchQuery, Query()]) -> Response:
    """Each image goes into a multipart part named `file`. The answers stand in the same order; a bad image fails alone.

    An item is as in `/predict`: a `prediction`, or a `problem` with its own `status`.
    """
    with _visit(request, query) as visitor:
        options = query.options(visitor.model)
        most = visitor.lifecycle.settings.batch_images
        files = await visitor.receive_parsed(lambda upload: upload.files(most))
        async with visitor.admitted(len(files)) as deadline:
            work = _predict_files(visitor, files, query, options, deadline)
            answers = await while_connected(request, work)
            (body, encoding), _ = await visitor.pipeline.postprocess_pool.run(
                lambda: compress(to_json({"answers": answers}), visitor.accept_encoding), visitor.priority
            )
    return _response(body, JSON, encoding, visitor.model)


async def _predict_files(
    visitor: Visit, files: list[File], query: BatchQuery, options: Options, deadline: Deadline
) -> list[dict[str, Any]]:
    jobs = [visitor.job(partial(_content, file), options, deadline) for file in files]
    async with asyncio.TaskGroup() as group:  # all of them end when the client leaves
        tasks = [
            group.create_task(_predict_file(visitor, job, query, query.image_id + index))
            for index, job in enumerate(jobs)
        ]
    return [{"file": file.name, **task.result()} for file, task in zip(files, tasks, strict=True)]


async def _predict_file(visitor: Visit, job: Job, query: BatchQuery, image_id: int) -> dict[str, Any]:
    """The item of one image, whatever becomes of it."""
    try:
        answer = await visitor.pipeline.predict(job, lambda detected: _answer(detected, query, image_id))
    except Problem as problem:
        response = problem_response(problem)
    except Exception as error:  # the other images' answers are good; this one's client gets no stack trace
        logger.error("an image of a batch failed", exc_info=error)
        response = problem_response(internal_error())
    else:
        return {"status": 200, "prediction": orjson.Fragment(answer)}
    return {"status": response.status_code, "problem": orjson.Fragment(bytes(response.body))}


def _visit(request: Request, query: PredictQuery | BatchQuery) -> AbstractContextManager[Visit]:
    timeout = None if query.timeout_ms is None else query.timeout_ms / 1e3
    return visit(request, query.model, query.version, query.priority, timeout)


def _answer(detected: Detected, query: PredictQuery | BatchQuery, image_id: int) -> bytes:
    if query.format == "coco":
        return to_json(coco_results(detected, query.masks, image_id))
    return to_json(prediction(detected, query.masks))


def _content(file: File) -> Data:
    return file.content


def _wants_picture(request: Request) -> bool:
    """Whether the client prefers image/png to JSON."""
    accept = ", ".join(request.headers.getlist("accept"))
    return preference(accept, PNG) > preference(accept, JSON)


def _response(body: bytes, media_type: str, encoding: str | None, model: ServedModel) -> Response:
    headers = {"Vary": "Accept, Accept-Encoding", PRECISION: model.precision}
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    return Response(body, media_type=media_type, headers=headers)
