"""Loads the model, and says what a run with it is: on this machine, or on a node of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.client.command.inputs import UsageError
from service.http.problems import Problem
from service.models.catalog import Catalog
from service.models.loading import RefusedError, load_one
from service.observability.memory import keep_freed_memory
from service.predict_many.command_line import Asked
from service.predict_many.plan import Listing, Plan
from service.prediction.parameters import Options
from service.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model, and what is asked of it."""

    catalog: Catalog
    options: Options
    settings: Settings


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a run once its model is loaded; goes from process to process. `label_names` are by label id,
    `label_ids` those that are asked for (None: all), `refused` a line for each newer version that cannot be used."""

    plan: Plan
    label_names: Sequence[str]
    label_ids: frozenset[int] | None
    refused: tuple[str, ...]


def prepare_process() -> None:
    """Before the model is loaded in it."""
    logging.disable()  # what goes wrong with an image stands in its row
    keep_freed_memory()


def load(asked: Asked, listing: Listing, say: Callable[[str], None]) -> tuple[Loaded, Known]:
    """Raises UsageError and InvalidSettingsError."""
    try:
        catalog = load_one(asked.settings, asked.version, say)
        model = catalog.find()
        options = asked.parameters.options(model)
    except RefusedError as error:
        raise UsageError(str(error)) from None
    except Problem as problem:
        raise UsageError(problem.detail) from None
    known = Known(
        Plan.of(listing, model, asked.parameters, asked.settings, asked.shard_size),
        model.label_names,
        options.label_ids,
        tuple(
            f"{name}/{version} cannot be used, and an older version is: {why}"
            for (name, version), why in catalog.refused.items()
        ),
    )
    return Loaded(catalog, options, asked.settings), known
