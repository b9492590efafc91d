"""GET /models and /models/NAME; POST to reload a model, to promote one of its versions and to unpin it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.models.catalog import Catalog, ServedModel
from service.prediction.lifecycle import lifecycle_of
from service.routes.openapi import MODEL_RESPONSES, RELOAD_RESPONSES, problem_responses
from service.routes.schemas import ModelDetails, ModelList, Version, VersionDetails

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="The models that are served", responses=problem_responses(401, 503))
async def list_models(request: Request) -> ModelList:
    """Each with its versions, also those that are refused, and why."""
    catalog = lifecycle_of(request).catalog
    answering = catalog.answering
    unserved = [name for name in catalog.known_names if name not in {model.name for model in answering}]
    return ModelList(
        default=catalog.default_name,
        aliases=catalog.alias_targets,
        models=[_details(catalog, model) for model in answering],
        refused={name: VersionDetails.of(catalog.versions(name)) for name in unserved},
    )


@router.get("/{name}", summary="One model", responses=MODEL_RESPONSES)
async def show_model(request: Request, name: str) -> ModelDetails:
    catalog = lifecycle_of(request).catalog
    return _details(catalog, catalog.find(name))


@router.post("/{name}/reload", summary="Look for new versions of a model now", responses=RELOAD_RESPONSES)
async def reload_model(request: Request, name: str) -> ModelDetails:
    """Answers when what is new is loaded, warm and has taken over. If nothing was loaded because the newest version is
    refused, the old one stays and the answer is 409 with the reason.

    Refused versions are tried again. A model that was unloaded is loaded. A pinned version goes on answering.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    await lifecycle.changes.renew(name)
    return _details(lifecycle.catalog, lifecycle.catalog.find(name))


@router.post(
    "/{name}/versions/{version}/promote",
    summary="Let this version answer, also when newer ones come",
    responses=RELOAD_RESPONSES,
)
async def promote_version(request: Request, name: str, version: Version) -> ModelDetails:
    """Loads the version if it isn't, and pins it: it answers when no version is named, from the answer to this request
    on. Nothing fails meanwhile. To roll back, promote the version before.

    A version that cannot be served is 409 with the reason, and changes nothing. The pin holds until another version is
    promoted, the model is unpinned or the server ends; then the setting `versions` holds again.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    await lifecycle.changes.promote(name, version)
    return _details(lifecycle.catalog, lifecycle.catalog.find(name))


@router.post("/{name}/unpin", summary="Let the newest version answer again", responses=RELOAD_RESPONSES)
async def unpin_model(request: Request, name: str) -> ModelDetails:
    """Also where the setting `versions` pins it, until the server starts again."""
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    await lifecycle.changes.unpin(name)
    return _details(lifecycle.catalog, lifecycle.catalog.find(name))


def _details(catalog: Catalog, model: ServedModel) -> ModelDetails:
    return ModelDetails.of(model, catalog.versions(model.name), catalog.pins.get(model.name))
