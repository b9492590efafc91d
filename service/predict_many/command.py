"""One run of the command, from its arguments to its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from model.console.outputs import overwritten, why_unwritable
from service.client.command.inputs import UsageError
from service.predict_many import plan as plans
from service.predict_many.command_line import Asked
from service.predict_many.display import Display, say
from service.predict_many.merging import Tally, merge_coco, merge_parquet
from service.predict_many.plan import Listing, Plan
from service.predict_many.predicting import EngineFailing, Run, predict_shards
from service.predict_many.shards import DATASET, FOLDER, RESULTS, shards_in
from service.predict_many.sources import Images, find
from service.predict_many.starting import Known, load, prepare_process
from service.predict_many.stores import Folder, LocalFolder, Remote, RemoteFolder, StoreError, locate


class ExitCode(IntEnum):
    PREDICTED = 0
    SOME_FAILED = 1
    STOPPED = 3
    INTERRUPTED = 130


def run(asked: Asked) -> int:
    """Raises UsageError, and InvalidSettingsError."""
    prepare_process()
    place = locate(asked.output)
    if isinstance(place, Path) and (why := why_unwritable(place, folder=True)):
        raise UsageError(f"--output: {why}")
    folder: Folder = LocalFolder(place) if isinstance(place, Path) else RemoteFolder(place)
    try:
        images = find(asked.sources, asked.images, [place] if isinstance(place, Path) else [])
        for line in () if asked.quiet else images.remarks:
            say(line)
        _require_kept(asked, place)
        with folder.held():
            tally = _run(asked, images, folder)
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


def _require_kept(asked: Asked, output: Path | Remote) -> None:
    """Raises UsageError where a merged file would overwrite the list of images: both may be called images.json."""
    sources = [locate(source) for source in asked.sources if len(asked.sources) == 1]  # as a list is
    why = ""
    if isinstance(output, Path):
        files = [(f"--output {output}", output / name) for name in _written(asked)]
        why = overwritten(files, [source for source in sources if isinstance(source, Path) and source.is_file()])
    else:
        read = {source.uri for source in sources if isinstance(source, Remote)}
        if lost := next((uri for name in _written(asked) if (uri := output.child(name).uri) in read), None):
            why = f"--output {output.uri} would overwrite {lost}, which is read: choose another name"
    if why:
        raise UsageError(why)


def _stopped(why: str) -> int:
    say(f"{why}; the same command goes on from what is finished")
    return ExitCode.STOPPED


def _run(asked: Asked, images: Images, folder: Folder) -> Tally:
    if folder.read(plans.FILE) is None:
        _require_free(folder, _written(asked))
    if asked.ray is None:
        loaded, known = load(asked, Listing.of(images), (lambda line: None) if asked.quiet else say)
        plan = _begin(asked, images, folder, known)
        if missing := _missing(plan, folder, quiet=asked.quiet):
            with _display(plan, missing, quiet=asked.quiet) as display:
                asyncio.run(predict_shards(Run(plan, images, folder, loaded), missing, display))
    else:
        from service.predict_many.cluster import connected  # with ray, which may not be installed

        with connected(asked, images) as cluster:
            known = cluster.load()
            plan = _begin(asked, images, folder, known)
            if missing := _missing(plan, folder, quiet=asked.quiet):
                with _display(plan, missing, quiet=asked.quiet) as display:
                    cluster.predict(plan, missing, folder, display)
    if asked.format == "coco":
        return merge_coco(folder, plan, images, known.label_names)
    return merge_parquet(folder, plan, asked.rows)


def _begin(asked: Asked, images: Images, folder: Folder, known: Known) -> Plan:
    """The plan, which stands in the folder from now on. Raises UsageError."""
    for line in known.refused:
        say(line)
    if asked.format == "coco" and images.categories is not None:
        _require_categories(asked.sources[0], images.categories, known)
    if (frozen := folder.read(plans.FILE)) is not None:  # as a run may have written that began while this one loaded
        return known.plan.agree(frozen, str(folder), any_size=asked.shard_size is None)
    try:
        folder.write(plans.FILE, known.plan.to_json())
    except (StoreError, OSError) as error:
        raise UsageError(f"--output: {error}") from None
    return known.plan


def _require_categories(where: str, categories: Mapping[str, int], known: Known) -> None:
    wanted = range(1, len(known.label_names)) if known.label_ids is None else sorted(known.label_ids)
    names = [known.label_names[label] for label in wanted]
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


def _missing(plan: Plan, folder: Folder, *, quiet: bool) -> list[int]:
    """The shards that are not there."""
    kept = shards_in(folder.names(FOLDER))
    missing = [shard for shard in range(plan.shards) if shard not in kept]
    if (images := _kept(plan, missing)) and not quiet:
        say(f"{images} of {plan.list.images} images are there already")
    return missing


def _display(plan: Plan, missing: Sequence[int], *, quiet: bool) -> Display:
    return Display(plan.list.images, _kept(plan, missing), quiet=quiet)


def _kept(plan: Plan, missing: Sequence[int]) -> int:
    return plan.list.images - sum(len(plan.images_of(shard)) for shard in missing)


def _sum_up(tally: Tally, asked: Asked, folder: Folder) -> None:
    if tally.truncated:
        say(f"of {tally.truncated} images a limit cut objects off, or may have (truncated): --max-detections")
    where = ", ".join(f"{folder}/{name}" for name in _written(asked))
    say(f"{tally.images} images, {tally.failed} failed, {tally.detections} detections: {where}")
