"""Predicts many images: each is sent, its answer rendered and drawn, and all is written in the images' order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from service.client.calls import Answer, PredictOptions
from service.client.client import AsyncClient
from service.client.command.coco_ids import ImageId
from service.client.command.formats import (
    FormatName,
    Output,
    coco_entries,
    coco_image,
    csv_columns,
    csv_rows,
    json_line,
    problem_line,
    write_file,
)
from service.client.command.inputs import Input
from service.client.command.ordered import in_order
from service.client.command.overlays import write_overlay
from service.client.command.progress import Display
from service.client.errors import ClientError, ServerProblem, UnreachableError, UnreadableFileError
from service.client.prediction import Prediction

REFUSED = (401, 403)
"""The key is not good enough, for any image."""
MISUSED = (404, 422)
"""There is no such model, or a parameter is wrong, for any image."""


@dataclass(frozen=True, slots=True)
class Job:
    """`image_id` is the image's in COCO's forms; `overlay` and `file` are where its picture and its file for analysis
    tools go, None where there is none."""

    image: Input
    image_id: ImageId
    overlay: Path | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What becomes of a job: its part of the output and of the COCO dataset, and what was wrong with it. `truncated`: a
    limit cut objects off, or may have, and the results do not say so."""

    job: Job
    rendered: bytes = b""
    dataset_entry: bytes = b""
    error: ClientError | None = None
    truncated: bool = False


@dataclass(slots=True)
class Tally:
    """How far a run came."""

    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Bulk:
    """One run of the command. `labels` are the class names of each model by label id, `categories` the ids that COCO
    results have for them by name; None: the label ids. `output` is None where each image has a file of its own."""

    client: AsyncClient
    options: PredictOptions
    format: FormatName
    labels: Mapping[str, Mapping[int, str]]
    categories: Mapping[str, int] | None
    output: Output | None
    dataset: Output | None
    display: Display
    tally: Tally

    async def run(self, jobs: Sequence[Job], connections: int) -> None:
        """Predict all; an image that fails is named and fails alone.

        Raises the ClientError that says that no image can succeed, OSError when nothing more can be written. What is
        finished is written then, and when this is cancelled.
        """
        await in_order(jobs, self._predict, self._write, connections)

    async def _predict(self, job: Job) -> Done:
        try:
            done = await self._asked(job)
        except ClientError as error:
            if _concerns_all(error):
                raise
            line = problem_line(job.image.name, error) if self.format == "jsonl" else b""
            done = Done(job, line, coco_image(job.image.name, job.image_id), error)
        self.display.advance(failed=done.error is not None)
        return done

    async def _asked(self, job: Job) -> Done:
        """The files come from the server as they are. Where pictures are drawn too, it is asked for both."""
        image, format = job.image.path, self.format
        if format == "jsonl" or format == "coco":
            answer = await self.client.predict_json(image, **self.options)
            return await asyncio.to_thread(self._finish, job, format, answer)
        file = await self.client.predict_file(image, format, **self.options)
        if job.overlay is not None:
            answer = await self.client.predict_json(image, **self.options)
            await asyncio.to_thread(self._draw, job.overlay, job, Prediction.from_json(orjson.loads(answer)))
        return await asyncio.to_thread(self._finish_file, job, file)

    def _finish(self, job: Job, format: Literal["jsonl", "coco"], answer: bytes) -> Done:
        """Everything between the answer and the output. Runs on a thread of its own."""
        name = job.image.name
        if format == "jsonl" and job.overlay is None:
            return Done(job, json_line(name, answer))
        prediction = Prediction.from_json(orjson.loads(answer))
        if job.overlay is not None:
            self._draw(job.overlay, job, prediction)
        if format == "jsonl":
            return Done(job, json_line(name, answer))
        rendered = coco_entries(prediction, job.image_id, self.categories)
        return Done(job, rendered, coco_image(name, job.image_id, prediction), truncated=prediction.truncated)

    def _finish_file(self, job: Job, file: Answer) -> Done:
        rendered = b""
        if job.file is None:
            rendered = csv_rows(job.image.name, file.content, csv_columns(self.options.get("channels")))
        else:
            write_file(file.content, job.file)
        return Done(job, rendered, truncated=file.truncated)

    def _draw(self, path: Path, job: Job, prediction: Prediction) -> None:
        write_overlay(job.image.path, prediction, self.labels.get(prediction.model, {}), path)

    def _write(self, done: Done) -> None:
        if done.error is None:
            self.tally.answered += 1
            if done.truncated:
                self.display.say(
                    f"{shown(done.job.image.name)}: a limit cut objects off, or may have: --max-detections"
                )
        else:
            self.tally.failed += 1
            error = done.error
            text = f"{error.title}: {error.detail}" if isinstance(error, UnreadableFileError) else str(error)
            self.display.say(f"{shown(done.job.image.name)}: {text}")
        # An image that never came to the server says nothing about whether the others are taken.
        certain = done.error is None or isinstance(done.error, ServerProblem)
        if self.output is not None:
            self.output.write(done.rendered, certain=certain)
        if self.dataset is not None:
            self.dataset.write(done.dataset_entry, certain=certain)


def shown(name: str) -> str:
    """A file's name on one line of a terminal, whatever characters are in it."""
    return name if name.isprintable() else repr(name)


def _concerns_all(error: ClientError) -> bool:
    """Whether every other image would fail in the same way."""
    if isinstance(error, ServerProblem):
        return error.status in REFUSED + MISUSED
    return isinstance(error, UnreachableError)
