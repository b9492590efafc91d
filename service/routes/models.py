"""GET /models and /models/NAME."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.lifecycle import lifecycle_of
from service.openapi import MODEL_RESPONSES, problem_responses
from service.schemas import ModelDetails, ModelList

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="The models that are served", responses=problem_responses(503))
async def list_models(request: Request) -> ModelList:
    models = lifecycle_of(request).pipeline.models
    return ModelList(default=models.default.manifest.name, models=[ModelDetails.of(model) for model in models.served])


@router.get("/{name}", summary="One model", responses=MODEL_RESPONSES)
async def show_model(request: Request, name: str) -> ModelDetails:
    return ModelDetails.of(lifecycle_of(request).pipeline.models.find(name))
