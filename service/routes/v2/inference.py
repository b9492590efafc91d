"""The Open Inference Protocol v2, as Triton and KServe speak it over HTTP, under /v2."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from service import VERSION
from service.http.gzipped import compress
from service.http.problems import DEADLINE_PASSED, Problem
from service.http.uploads import Upload, read_body
from service.http.waiting import while_connected
from service.models.catalog import ServedModel
from service.prediction.answers import Detected, image_said, to_json
from service.prediction.decoding import Job
from service.prediction.intake import Visit, receive_small, visit
from service.prediction.lifecycle import lifecycle_of
from service.routes.openapi import (
    INDEX_BODY,
    INFER_BODY,
    INFER_RESPONSES,
    LOAD_BODY,
    LOAD_RESPONSES,
    MODEL_RESPONSES,
    UNLOAD_BODY,
    UNLOAD_RESPONSES,
    problem_responses,
)
from service.routes.schemas import Version
from service.routes.v2.repository import parse_index, parse_load, parse_unload
from service.routes.v2.schemas import (
    IMAGE,
    PLATFORMS,
    InferResponseParameters,
    ModelMetadata,
    RepositoryEntry,
    ServerMetadata,
    output_tensors,
)
from service.routes.v2.tensors import (
    InferRequest,
    Tensor,
    parse_header_length,
    parse_infer_request,
    render_infer_response,
)
from service.scheduling.gate import Deadline
from service.scheduling.priority import Priority

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
STATES = {"served": "READY", "loading": "LOADING", "refused": "UNAVAILABLE", "retired": "UNAVAILABLE"}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])


@router.get("", summary="The server and its extensions of the protocol", responses=problem_responses(401))
async def server_metadata() -> ServerMetadata:
    return ServerMetadata(name="maskserve", version=VERSION, extensions=EXTENSIONS)


@router.get("/health/live", summary="Is the process alive?", response_class=Response)
async def live() -> Response:
    return Response()


@router.get(
    "/health/ready", summary="Is a model loaded and warm?", response_class=Response, responses=problem_responses(503)
)
async def ready(request: Request) -> Response:
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_ready()
    lifecycle.catalog.check_any()
    return Response()


@router.get("/models/{name}", summary="A model's tensors", responses=MODEL_RESPONSES)
async def model_metadata(request: Request, name: str) -> ModelMetadata:
    """Of the version that answers when none is named."""
    return _metadata(request, name, None)


@router.get("/models/{name}/versions/{version}", summary="A version's tensors", responses=MODEL_RESPONSES)
async def version_metadata(request: Request, name: str, version: Version) -> ModelMetadata:
    return _metadata(request, name, version)


@router.get("/models/{name}/ready", summary="Is the model served?", response_class=Response, responses=MODEL_RESPONSES)
async def model_ready(request: Request, name: str) -> Response:
    return _ready(request, name, None)


@router.get(
    "/models/{name}/versions/{version}/ready",
    summary="Is the version served?",
    response_class=Response,
    responses=MODEL_RESPONSES,
)
async def version_ready(request: Request, name: str, version: Version) -> Response:
    return _ready(request, name, version)


@router.post(
    "/models/{name}/infer",
    summary="Detect and segment the objects in images given as tensors",
    openapi_extra=INFER_BODY,
    responses=INFER_RESPONSES,
    response_class=Response,
)
async def infer(request: Request, name: str) -> Response:
    """`IMAGE` is a BYTES tensor of image files, as base64 in JSON or in the binary extension.

    The outputs are flat over all detections of all images, see `GET /v2/models/NAME`. `parameters` are those of
    `POST /predict` and `timeout` in microseconds. One bad image fails the request; `image_index` in the error says
    which of several.
    """
    return await _infer(request, name, None)


@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="The same with one version",
    openapi_extra=INFER_BODY,
    responses=INFER_RESPONSES,
    response_class=Response,
)
async def infer_version(request: Request, name: str, version: Version) -> Response:
    """As `POST /v2/models/NAME/infer`."""
    return await _infer(request, name, version)


@router.post(
    "/repository/index",
    summary="Every version that is known of",
    openapi_extra=INDEX_BODY,
    responses=problem_responses(400, 401, 408, 413, 415, 422, 429, 503, 507),
)
async def repository_index(request: Request) -> list[RepositoryEntry]:
    """With `{"ready": true}` in the body, only those that are served."""
    catalog = lifecycle_of(request).catalog
    asked = parse_index(await receive_small(request))
    return [
        RepositoryEntry(name=name, version=str(one.version), state=STATES[one.state], reason=one.reason)
        for name in catalog.known_names
        for one in catalog.versions(name)
        if one.state == "served" or not asked.ready
    ]


@router.post(
    "/repository/models/{name}/load",
    summary="Load a model's new versions now",
    openapi_extra=LOAD_BODY,
    response_class=Response,
    responses=LOAD_RESPONSES,
)
async def load_model(request: Request, name: str) -> Response:
    """As `POST /models/NAME/reload`. `version` in the JSON of the body, or in its `parameters`, names one that was
    unloaded; anything else, such as Triton's `config` and files, is refused.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    version = parse_load(await receive_small(request))
    await lifecycle.changes.renew(name, version)
    return Response()


@router.post(
    "/repository/models/{name}/unload",
    summary="Stop serving a model, or one version of it",
    openapi_extra=UNLOAD_BODY,
    response_class=Response,
    responses=UNLOAD_RESPONSES,
)
async def unload_model(request: Request, name: str) -> Response:
    """New requests get 404 from now on; those that are in are answered.

    `version` in the JSON of the body, or in its `parameters`, names one; without it the whole model is unloaded. A
    pinned version is refused with 409.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    version = parse_unload(await receive_small(request))
    await lifecycle.changes.unload(name, version)
    return Response()


def _metadata(request: Request, name: str, version: int | None) -> ModelMetadata:
    catalog = lifecycle_of(request).catalog
    model = catalog.find(name, version)
    return ModelMetadata(
        name=name,
        versions=[str(one.version) for one in catalog.served if one.name == model.name],
        platform=PLATFORMS[model.engines[0].name],
        inputs=(IMAGE,),
        outputs=output_tensors(model.manifest.architecture),
    )


def _ready(request: Request, name: str, version: int | None) -> Response:
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_ready()
    lifecycle.catalog.find(name, version)
    return Response()


async def _infer(request: Request, name: str, version: int | None) -> Response:
    header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
    # The priority and the timeout stand in the body, so what is asked of the gate before reading it is a guess.
    with visit(request, name, version, Priority.INTERACTIVE, None) as visitor:
        outputs = [tensor.name for tensor in output_tensors(visitor.model.manifest.architecture)]
        most = visitor.lifecycle.settings.batch_images

        def parse(upload: Upload) -> InferRequest:
            return parse_infer_request(upload.body(), header_length, output_names=outputs, max_images=most)

        asked = await visitor.receive_parsed(parse, read_body)
        visitor = visitor.with_wishes(asked.parameters.priority, asked.parameters.timeout_seconds)
        async with visitor.admitted(len(asked.images)) as deadline:
            detected = await while_connected(request, _detect(visitor, asked, deadline))
            render = partial(_render, asked, detected, visitor.model, visitor.accept_encoding)
            (body, length, encoding), _ = await visitor.pipeline.postprocess_pool.run(render, visitor.priority)
    headers: dict[str, str] = {}
    if encoding is not None:  # else the application says `Vary`
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    if length is not None:
        headers[HEADER_LENGTH] = str(length)
    return Response(
        body, media_type="application/json" if length is None else "application/octet-stream", headers=headers
    )


async def _detect(visitor: Visit, asked: InferRequest, deadline: Deadline) -> list[Detected]:
    options = asked.parameters.options(visitor.model)
    jobs = [visitor.job(partial(bytes, image), options, deadline) for image in asked.images]
    work = [asyncio.ensure_future(_detect_one(visitor, jobs, index)) for index in range(len(jobs))]
    try:
        return await asyncio.gather(*work)
    finally:  # when one has failed, or the client has left, the others need not be computed
        for one in work:
            one.cancel()


async def _detect_one(visitor: Visit, jobs: list[Job], index: int) -> Detected:
    """Raises Problem, which says which of several images it is about, if it is about one."""
    try:
        return await visitor.pipeline.predict(jobs[index], lambda detected: detected)
    except Problem as problem:
        if len(jobs) == 1 or problem.kind == DEADLINE_PASSED:
            raise
        detail = f"Image {index} of {len(jobs)}, counted from 0: {problem.detail}"
        raise replace(problem, detail=detail, extra={**problem.extra, "image_index": index}) from problem


def _render(
    asked: InferRequest, detected: list[Detected], model: ServedModel, accept_encoding: str
) -> tuple[bytes, int | None, str | None]:
    found = [one.detections for one in detected]
    labels = np.concatenate([one.labels for one in found])
    tensors = [
        Tensor("BOXES", "FP32", np.concatenate([one.boxes for one in found])),
        Tensor("SCORES", "FP32", np.concatenate([one.scores for one in found])),
        Tensor("LABELS", "BYTES", [model.label_names[label].encode() for label in labels]),
        Tensor("LABEL_IDS", "INT64", labels),
        Tensor("IMAGE_INDEX", "INT64", np.repeat(np.arange(len(found)), [len(one) for one in found])),
        Tensor("IMAGE_SIZES", "INT64", np.array([one.size for one in detected], np.int64)),
        Tensor("MASKS", "BYTES", [mask.counts for one in found for mask in one.masks or ()]),
    ]
    if all(one.keypoints is not None for one in found):
        tensors.append(Tensor("KEYPOINTS", "FP32", np.concatenate([one.keypoints for one in found])))
    images = [{**image_said(one), "truncated": one.seen.truncated} for one in detected]
    said = InferResponseParameters(
        precision=model.precision,
        truncated=any(one.seen.truncated for one in detected),
        images=to_json(images).decode(),
    )
    body, length = render_infer_response(asked, model.name, str(model.version), said, tensors)
    body, encoding = compress(body, accept_encoding)
    return body, length, encoding
