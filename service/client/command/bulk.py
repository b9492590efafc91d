"""Predicts many images: each is sent, its answer rendered and drawn, and all is written in the images' order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal, cast

import orjson

from service.client.calls import Answer, PredictOptions
from service.client.client import AsyncClient
from service.client.command.coco_ids import ImageId
from service.client.command.formats import (
    FormatName,
    Output,
    PlaneSaid,
    coco_entries,
    coco_image,
    csv_columns,
    csv_rows,
    json_line,
    problem_line,
    with_id,
    write_file,
)
from service.client.command.inputs import Input
from service.client.command.ordered import in_order
from service.client.command.overlays import write_overlay
from service.client.command.plane_files import PlaneFiles, of_plane
from service.client.command.progress import Display
from service.client.errors import ClientError, ServerProblem, UnreachableError, UnreadableFileError
from service.client.planes import PlaneAnswer
from service.client.prediction import Prediction

REFUSED = (401, 403)
"""The key is not good enough, for any image."""
MISUSED = (404, 422)
"""There is no such model, or a parameter is wrong, for any image."""


@dataclass(frozen=True, slots=True)
class Job:
    """An image, or one plane of it. `image_id` is its id in COCO's forms, None where results are numbered as they are
    written; `overlay` and `file` are where its picture and its file for analysis tools go, None where there is none."""

    image: Input
    image_id: ImageId | None
    overlay: Path | None = None
    file: Path | None = None
    plane: PlaneSaid | None = None

    def of_plane(self, plane: PlaneSaid) -> Job:
        overlay, file = (None if path is None else of_plane(path, plane) for path in (self.overlay, self.file))
        return replace(self, plane=plane, overlay=overlay, file=file)

    @property
    def name(self) -> str:
        """For a person."""
        plane = ", ".join(f"{axis} {which['index']}" for axis, which in (self.plane or {}).items())
        return f"{shown(self.image.name)} ({plane})" if plane else shown(self.image.name)


@dataclass(frozen=True, slots=True)
class Done:
    """What becomes of a job: its part of the output, or its entries of COCO results and of the COCO dataset, both still
    without ids, and what was wrong with it. `truncated`: a limit cut objects off, or may have, and the results do not
    say so."""

    job: Job
    rendered: bytes = b""
    entries: Sequence[bytes] = ()
    dataset_entry: bytes = b""
    error: ClientError | None = None
    truncated: bool = False


@dataclass(slots=True)
class Tally:
    """How far a run came, in images; in planes where all are asked for."""

    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Bulk:
    """One run of the command. `labels` are the class names of each model by label id, `categories` the ids that COCO
    results have for them by name; None: the label ids. `output` is None where each image has a file of its own.
    `planes`: all planes of each image are asked for, and these are their files; None: images as they are."""

    client: AsyncClient
    options: PredictOptions
    format: FormatName
    labels: Mapping[str, Mapping[int, str]]
    categories: Mapping[str, int] | None
    output: Output | None
    dataset: Output | None
    display: Display
    tally: Tally
    planes: PlaneFiles | None = None
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self, jobs: Sequence[Job], connections: int) -> None:
        """Predict all; an image that fails is named and fails alone.

        Raises the ClientError that says that no image can succeed, OSError when nothing more can be written. What is
        finished is written then, and when this is cancelled.
        """
        await in_order(jobs, self._predict, self._write, connections)

    async def _predict(self, job: Job) -> list[Done]:
        """Of an image, or of each of its planes."""
        try:
            done = [await self._asked(job)] if self.planes is None else await self._asked_planes(job, self.planes)
        except ClientError as error:
            if _concerns_all(error):
                raise
            done = [self._failed(job, error)]
        self.display.advance(failed=any(one.error is not None for one in done))
        return done

    def _failed(self, job: Job, error: ClientError) -> Done:
        line = problem_line(job.image.name, error, job.plane) if self.format == "jsonl" else b""
        return Done(job, line, (), coco_image(job.image.name, plane=job.plane), error)

    async def _asked(self, job: Job) -> Done:
        """The files come from the server as they are. Where pictures are drawn too, it is asked for both."""
        image, format = job.image.path, self.format
        if format == "jsonl" or format == "coco":
            answer = await self._asked_json(job)
            return await asyncio.to_thread(self._finish, job, format, answer)
        file = await self.client.predict_file(image, format, **self.options)
        if job.overlay is not None:
            answer = await self._asked_json(job)
            await asyncio.to_thread(self._draw, job.overlay, job, Prediction.from_json(orjson.loads(answer)))
        return await asyncio.to_thread(self._finish_file, job, file)

    async def _asked_json(self, job: Job) -> bytes:
        with self.display.part(job.name, "tiles") as progress:
            return await self.client.predict_json(job.image.path, progress=progress, **self.options)

    async def _asked_planes(self, job: Job, files: PlaneFiles) -> list[Done]:
        """Which planes there are, the server's answer of all of them says; files it gives of one plane alone."""
        options = self.options.copy()
        if self.format not in ("jsonl", "coco") and job.overlay is None:
            options["masks"] = "none"
        with self.display.part(job.name, "planes") as progress:
            answers = await self.client.predict_planes(job.image.path, progress=progress, **options)
        done = []
        for answer in answers:
            one = job.of_plane(answer.json["plane"])
            if answer.problem is not None:
                done.append(self._failed(one, answer.problem))
                continue
            try:
                for path in filter(None, (one.overlay, one.file)):
                    files.claim(path)
                done.append(await self._asked_plane(one, answer))
            except ClientError as error:
                if _concerns_all(error):
                    raise
                done.append(self._failed(one, error))
        return done

    async def _asked_plane(self, job: Job, answer: PlaneAnswer) -> Done:
        format, prediction = self.format, answer.prediction
        assert prediction is not None, "else it has a problem"
        if format == "jsonl" or format == "coco":
            return await asyncio.to_thread(self._finish, job, format, orjson.dumps(prediction.json), prediction)
        chosen = cast("PredictOptions", {**self.options, **answer.plane})
        file = await self.client.predict_file(job.image.path, format, **chosen)
        if job.overlay is not None:
            await asyncio.to_thread(self._draw, job.overlay, job, prediction)
        return await asyncio.to_thread(self._finish_file, job, file)

    def _finish(
        self, job: Job, format: Literal["jsonl", "coco"], answer: bytes, prediction: Prediction | None = None
    ) -> Done:
        """Everything between the answer and the output. Runs on a thread of its own."""
        name = job.image.name
        if format == "jsonl" and job.overlay is None:
            return Done(job, json_line(name, answer, job.plane))
        if prediction is None:
            prediction = Prediction.from_json(orjson.loads(answer))
        if job.overlay is not None:
            self._draw(job.overlay, job, prediction)
        if format == "jsonl":
            return Done(job, json_line(name, answer, job.plane))
        entries = coco_entries(prediction, self.categories)
        image = coco_image(name, prediction, job.plane)
        return Done(job, entries=entries, dataset_entry=image, truncated=prediction.truncated)

    def _finish_file(self, job: Job, file: Answer) -> Done:
        rendered = b""
        if job.file is None:
            columns = csv_columns(self.options.get("channels"), planes=self.planes is not None)
            rendered = csv_rows(job.image.name, file.content, columns, job.plane)
        else:
            write_file(file.content, job.file)
        return Done(job, rendered, truncated=file.truncated)

    def _draw(self, path: Path, job: Job, prediction: Prediction) -> None:
        write_overlay(job.image.path, prediction, self.labels.get(prediction.model, {}), path)

    def _write(self, parts: Sequence[Done]) -> None:
        for done in parts:
            self._write_one(done)

    def _write_one(self, done: Done) -> None:
        if done.error is None:
            self.tally.answered += 1
            if done.truncated:
                self.display.say(f"{done.job.name}: a limit cut objects off, or may have: --max-detections")
        else:
            self.tally.failed += 1
            error = done.error
            text = f"{error.title}: {error.detail}" if isinstance(error, UnreadableFileError) else str(error)
            self.display.say(f"{done.job.name}: {text}")
        rendered, entry = done.rendered, b""
        if self.format == "coco":
            image_id = next(self.numbers) if done.job.image_id is None else done.job.image_id
            rendered = with_id("image_id", image_id, done.entries)
            entry = with_id("id", image_id, [done.dataset_entry])
        # An image that never came to the server says nothing about whether the others are taken.
        certain = done.error is None or isinstance(done.error, ServerProblem)
        if self.output is not None:
            self.output.write(rendered, certain=certain)
        if self.dataset is not None:
            self.dataset.write(entry, certain=certain)


def shown(name: str) -> str:
    """A file's name on one line of a terminal, whatever characters are in it."""
    return name if name.isprintable() else repr(name)


def _concerns_all(error: ClientError) -> bool:
    """Whether every other image would fail in the same way."""
    if isinstance(error, ServerProblem):
        if error.status == HTTPStatus.UNPROCESSABLE_ENTITY and not error.extra:
            return False  # no parameter is wrong in itself, but this image has not what it asks for
        return error.status in REFUSED + MISUSED
    return isinstance(error, UnreachableError)
