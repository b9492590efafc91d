"""GET /healthz, /readyz and /metrics: for whoever runs the server."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.observability.metrics import MEDIA_TYPE
from service.prediction.lifecycle import lifecycle_of
from service.routes.openapi import METRICS_RESPONSES, problem_responses
from service.routes.schemas import Health
from service.scheduling.gate import Phase

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    return Health(status="alive")


@router.get("/readyz", summary="Is a model loaded and warm?", responses=problem_responses(503))
async def readyz(request: Request) -> Health:
    """Any model will do. A full queue is no reason to answer 503 here: the server is working."""
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_ready()
    lifecycle.catalog.check_any()
    return Health(status=Phase.READY.value, models=[str(model) for model in lifecycle.catalog.served])


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=METRICS_RESPONSES)
async def metrics(request: Request) -> Response:
    return Response(await lifecycle_of(request).exposition(), media_type=MEDIA_TYPE)
