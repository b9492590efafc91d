"""One run of the command, from its arguments to its exit code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from model.console.outputs import why_unwritable
from service.client.command.inputs import UsageError
from service.http.problems import Problem
from service.models.catalog import ServedModel
from service.models.loading import RefusedError, load_one
from service.observability.memory import keep_freed_memory
from service.predict_many import plan as plans
from service.predict_many.command_line import Asked
from service.predict_many.display import Display, say
from service.predict_many.merging import DATASET, RESULTS, Tally, merge_coco, merge_parquet
from service.predict_many.plan import Plan
from service.predict_many.predicting import EngineFailing, Run, predict_shards
from service.predict_many.shards import FOLDER, shards_in
from service.predict_many.sources import Images, find
from service.predict_many.stores import Folder, LocalFolder, RemoteFolder, StoreError, locate
from service.prediction.parameters import Options


class ExitCode(IntEnum):
    PREDICTED = 0
    SOME_FAILED = 1
    STOPPED = 3
    INTERRUPTED = 130


def run(asked: Asked) -> int:
    """Raises UsageError, and InvalidSettingsError."""
    logging.disable()  # what goes wrong with an image stands in its row
    keep_freed_memory()
    place = locate(asked.output)
    if isinstance(place, Path) and (why := why_unwritable(place, folder=True)):
        raise UsageError(f"--output: {why}")
    folder: Folder = LocalFolder(place) if isinstance(place, Path) else RemoteFolder(place)
    try:
        images = find(asked.sources, asked.images, [place] if isinstance(place, Path) else [])
        with folder.held():
            begun = _begin(asked, images, folder)
            _predict(begun, quiet=asked.quiet)
            tally = _merge(asked, begun)
    except (StoreError, EngineFailing) as error:
        return _stopped(str(error))
    except OSError as error:
        return _stopped(f"{error.filename or folder}: {error.strerror or error}")
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from what is finished")
        return ExitCode.INTERRUPTED
    if not asked.quiet:
        _sum_up(tally, asked, folder)
    return ExitCode.SOME_FAILED if tally.failed else ExitCode.PREDICTED


def _stopped(why: str) -> int:
    say(f"{why}; the same command goes on from what is finished")
    return ExitCode.STOPPED


def _begin(asked: Asked, images: Images, folder: Folder) -> Run:
    """The model is loaded, and the plan stands in the folder. Raises UsageError, and as `load_one`."""
    frozen = folder.read(plans.FILE)
    if frozen is None:
        _require_free(folder, _written(asked))
    try:
        catalog = load_one(asked.settings, asked.version, (lambda line: None) if asked.quiet else say)
        for (name, version), why in catalog.refused.items():
            say(f"{name}/{version} cannot be used, and an older version is: {why}")
        model = catalog.find()
        options = asked.parameters.options(model)
    except RefusedError as error:
        raise UsageError(str(error)) from None
    except Problem as problem:
        raise UsageError(problem.detail) from None
    if asked.format == "coco" and images.categories is not None:
        _require_categories(asked.sources[0], images.categories, model, options)
    plan = Plan.of(images, model, asked.parameters, asked.settings, asked.shard_size)
    if frozen is not None:
        plan = plan.agree(frozen, str(folder), any_size=asked.shard_size is None)
    else:
        try:
            folder.write(plans.FILE, plan.to_json())
        except (StoreError, OSError) as error:
            raise UsageError(f"--output: {error}") from None
    return Run(plan, images, folder, catalog, options, asked.settings)


def _require_categories(where: str, categories: Mapping[str, int], model: ServedModel, options: Options) -> None:
    wanted = range(1, len(model.label_names)) if options.label_ids is None else sorted(options.label_ids)
    names = [model.label_names[label] for label in wanted]
    if missing := [name for name in dict.fromkeys(names) if name not in categories]:
        raise UsageError(
            f"{where} has the categories {', '.join(categories)}, and none for the model's "
            f"{', '.join(missing)}: leave them out with --labels, or name them alike"
        )


def _written(asked: Asked) -> tuple[str, ...]:
    """The merged files."""
    return (RESULTS, DATASET) if asked.format == "coco" else (f"{asked.rows}.parquet",)


def _require_free(folder: Folder, written: Sequence[str]) -> None:
    there = folder.names("").intersection(written) | ({FOLDER} if folder.names(FOLDER) else set())
    if there:
        said = " and ".join(sorted(there))
        raise UsageError(f"--output: {folder} has {said}, and no {plans.FILE} that says of what: give another folder")


def _predict(begun: Run, *, quiet: bool) -> None:
    plan = begun.plan
    kept = shards_in(begun.folder.names(FOLDER))
    missing = [shard for shard in range(plan.shards) if shard not in kept]
    images = plan.list.images - sum(len(plan.images_of(shard)) for shard in missing)
    if images and not quiet:
        say(f"{images} of {plan.list.images} images are there already")
    if missing:
        with Display(plan.list.images, images, quiet=quiet) as display:
            asyncio.run(predict_shards(begun, missing, display))


def _merge(asked: Asked, begun: Run) -> Tally:
    names = begun.catalog.find().label_names
    if asked.format == "coco":
        return merge_coco(begun.folder, begun.plan.shards, begun.images, names)
    return merge_parquet(begun.folder, begun.plan.shards, asked.rows)


def _sum_up(tally: Tally, asked: Asked, folder: Folder) -> None:
    if tally.truncated:
        say(f"of {tally.truncated} images a limit cut objects off, or may have (truncated): --max-detections")
    where = ", ".join(f"{folder}/{name}" for name in _written(asked))
    say(f"{tally.images} images, {tally.failed} failed, {tally.detections} detections: {where}")
