"""GET /models and /models/NAME, and POST /models/NAME/reload."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.prediction.lifecycle import lifecycle_of
from service.routes.openapi import MODEL_RESPONSES, RELOAD_RESPONSES, problem_responses
from service.routes.schemas import ModelDetails, ModelList, VersionDetails

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="The models that are served", responses=problem_responses(401, 503))
async def list_models(request: Request) -> ModelList:
    """Each with its versions, also those that are refused, and why."""
    catalog = lifecycle_of(request).catalog
    unserved = [name for name in catalog.known_names if name not in catalog.served_names]
    return ModelList(
        default=catalog.default_name,
        models=[ModelDetails.of(model, catalog.versions(model.name)) for model in catalog.newest],
        refused={name: VersionDetails.of(catalog.versions(name)) for name in unserved},
    )


@router.get("/{name}", summary="One model", responses=MODEL_RESPONSES)
async def show_model(request: Request, name: str) -> ModelDetails:
    catalog = lifecycle_of(request).catalog
    return ModelDetails.of(catalog.find(name), catalog.versions(name))


@router.post("/{name}/reload", summary="Look for new versions of a model now", responses=RELOAD_RESPONSES)
async def reload_model(request: Request, name: str) -> ModelDetails:
    """Answers when what is new is loaded, warm and has taken over. If it is refused the old version stays, and the
    answer is 409 with the reason.

    Refused versions are tried again. A model that was unloaded is loaded.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    await lifecycle.reloader.reload(name)
    catalog = lifecycle.catalog
    catalog.check_newest(name)
    return ModelDetails.of(catalog.find(name), catalog.versions(name))
