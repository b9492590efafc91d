"""POST /predict."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.lifecycle import lifecycle_of
from service.openapi import IMAGE_BODY, PREDICT_RESPONSES
from service.parameters import PredictParameters
from service.uploads import read_upload
from service.waiting import while_connected

router = APIRouter(tags=["prediction"])


@router.post(
    "/predict",
    summary="Detect and segment the objects in one image",
    openapi_extra=IMAGE_BODY,
    responses=PREDICT_RESPONSES,
    response_class=Response,
)
async def predict(request: Request, parameters: Annotated[PredictParameters, Query()]) -> Response:
    """The image goes into a multipart part named `file`, or is the whole body with an `image/*` content type.

    The answer's columns stand side by side in falling score; coordinates are pixels of the image as seen (EXIF
    orientation applied).
    """
    lifecycle = lifecycle_of(request)
    gate = lifecycle.gate
    gate.check()
    pipeline = lifecycle.pipeline
    model = pipeline.models.find(parameters.model, parameters.version)
    options = parameters.options(model)
    async with gate.upload():
        upload = await read_upload(request, lifecycle.settings.max_body_bytes)
    async with gate.admit(lifecycle.settings.timeout_ms / 1e3) as deadline:
        body = await while_connected(request, pipeline.predict(model, upload, options, deadline))
    return Response(body, media_type="application/json")
