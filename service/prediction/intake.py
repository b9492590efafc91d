"""How a request comes in: a model is leased, the gate asked, the body received, and a place in the queue held."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from fastapi import Request

from model.runtime.images.data import Data
from service.http.problems import TOO_MANY_BYTES, Problem
from service.http.uploads import Upload, read_body, read_upload
from service.models.catalog import ServedModel
from service.observability.record import ImageRecord, RequestRecord, record_of
from service.prediction.decoding import Job
from service.prediction.lifecycle import Lifecycle, lifecycle_of
from service.prediction.parameters import Options
from service.prediction.pipeline import Pipeline
from service.scheduling.gate import Deadline, Place
from service.scheduling.priority import Priority

Parsed = TypeVar("Parsed")

MOST_SMALL = 64 * 1024
"""Bytes of a body that names a version or so: it is read on the event loop, where nothing may take long."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request and the model that answers it, whatever is reloaded meanwhile. `timeout` is in seconds; `patient`
    whether it is the server's, which is longer for a picture in tiles."""

    request: Request
    lifecycle: Lifecycle
    model: ServedModel
    priority: Priority
    timeout: float
    patient: bool = True

    def with_wishes(self, priority: Priority, timeout: float | None) -> Visit:
        """The same with what only its body told. `timeout` None, or longer than the server's: the server's."""
        self.record.priority = priority.value
        patient = self.patient and timeout is None
        return replace(self, priority=priority, timeout=min(self.timeout, timeout or self.timeout), patient=patient)

    @property
    def pipeline(self) -> Pipeline:
        return self.lifecycle.pipeline

    @property
    def record(self) -> RequestRecord:
        return record_of(self.request.scope)

    @property
    def accept_encoding(self) -> str:
        return ", ".join(self.request.headers.getlist("accept-encoding"))

    async def receive(self) -> Upload:
        """Read the body. Raises Problem."""
        async with self._upload():
            return await read_upload(self.request, self.lifecycle.settings.max_body_bytes)

    async def receive_parsed(
        self,
        parse: Callable[[Upload], Parsed],
        read: Callable[[Request, int], Awaitable[Upload]] = read_upload,
        of_several: str = " That is for all images together: send fewer images at once.",
    ) -> Parsed:
        """Read a body of several images and make something of it on a decode thread, which counts as uploading.

        of_several: what is said besides of a body that is too large. Raises Problem.
        """
        async with self._upload():
            try:
                upload = await read(self.request, self.lifecycle.settings.max_body_bytes)
                parsed, _ = await self.pipeline.decode_pool.run(lambda: parse(upload), self.priority)
            except Problem as problem:
                if problem.kind is TOO_MANY_BYTES:
                    problem.detail += of_several
                raise
            return parsed

    def admitted(self, images: int = 1) -> AbstractAsyncContextManager[Deadline]:
        """Hold places for the images until they are answered; yields the deadline. Raises as `Gate.admit`."""
        return self.lifecycle.gate.admit(_place(self.model, self.priority), self.timeout, images)

    def _upload(self) -> AbstractAsyncContextManager[None]:
        return self.lifecycle.gate.upload(self.lifecycle.settings.upload_timeout_ms / 1e3)

    def job(
        self,
        encoded: Callable[[], Data],
        options: Options,
        deadline: Deadline,
        *,
        keep_image: bool = False,
        keep_values: bool = False,
        is_light: bool = False,
    ) -> Job:
        """One image of the request, for the pipeline."""
        record = ImageRecord()
        self.record.images.append(record)
        return Job(
            self.model,
            encoded,
            options,
            deadline,
            self.priority,
            record,
            keep_image,
            keep_values,
            may_take_longer=self.patient,
            is_light=is_light,
        )


async def receive_small(request: Request) -> bytes:
    """The body of a request that has no images. Raises Problem: more than `MOST_SMALL` bytes, too slow, or damaged."""
    lifecycle = lifecycle_of(request)
    async with lifecycle.gate.upload(lifecycle.settings.upload_timeout_ms / 1e3):
        upload = await read_body(request, min(MOST_SMALL, lifecycle.settings.max_body_bytes))
    return upload.body()


@contextmanager
def visit(
    request: Request, name: str | None, version: int | None, priority: Priority, timeout: float | None
) -> Iterator[Visit]:
    """Before the body is read: is there such a model, and room for the request? `timeout` None: the server's own.

    Raises Problem.
    """
    lifecycle = lifecycle_of(request)
    lifecycle.gate.check_phase()
    own = lifecycle.settings.timeout_ms / 1e3
    patient = timeout is None
    timeout = own if timeout is None else min(own, timeout)
    with lifecycle.catalog.lease(name, version) as model:
        record = record_of(request.scope)
        record.model, record.version, record.priority = model.name, model.version, priority.value
        lifecycle.gate.check(_place(model, priority), timeout)
        yield Visit(request, lifecycle, model, priority, timeout, patient)


def _place(model: ServedModel, priority: Priority) -> Place:
    return Place(model.name, priority, model.max_queue_size)
