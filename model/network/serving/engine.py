"""A static graph as an engine: on a GPU each shape of batch is captured once as a CUDA graph and replayed from then on.

    pending = engine.submit(images, sizes, thresholds)   # queues upload, replay and one download; returns at once
    raw = pending.result()

On a CPU the same steps run one after the other, which is for tests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.graph.inference import InferenceGraph
from model.network.graph.static import StaticGraph
from model.network.serving.again import Again
from model.network.serving.captures import Captured, Captures, Inputs, Shape
from model.network.serving.found import joined
from model.network.serving.packing import Field, HostMemory, pack
from model.network.serving.pending import Pending
from model.network.serving.place import Capture, Gpu, Host, Place, too_much
from model.network.serving.replays import require_same
from model.runtime.buckets import Buckets
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import DeviceLost, EngineError, OutOfMemory
from model.runtime.images.picture import Size

Forward = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]

NOTHING: Final = 2.0
"""A score threshold that no detection exceeds, for places of a batch without an image."""
CLOSE_SECONDS = 5.0
"""Longer than that nobody waits for a GPU to end what it computes, when an engine is closed."""

logger = logging.getLogger(__name__)


class StaticEngine:
    """Runs a StaticGraph behind the runtime's OverlappingEngine protocol; it is safe from several threads.

    `exact` answers again what the static graph says may not be right; without it such images are only counted.
    `batch_size`: batches of fewer images are filled up to it, so that an answer does not depend on how many there are:
    kernels are chosen by the shape. None takes batches as they come. `buckets`: the sizes that images are padded to,
    which change no answer; None pads to the largest of a batch. `eager_meanwhile`: what is not captured yet is computed
    kernel by kernel while a thread captures it; else a batch of a new shape waits for its capture. `forward` computes
    instead of the graph, such as a compiled form of it. `capture`: None captures where the place can.
    """

    name = "cuda"
    depth = 2

    def __init__(
        self,
        graph: StaticGraph,
        place: Place | None = None,
        *,
        exact: InferenceGraph | None = None,
        batch_size: int | None = None,
        buckets: Buckets | None = None,
        eager_meanwhile: bool = False,
        forward: Forward | None = None,
        capture: bool | None = None,
    ) -> None:
        device = next(graph.parameters()).device
        if place is None:
            place = Gpu(device.index, str(device)) if device.type == "cuda" else Host()
        if capture and not place.captures:
            raise ValueError(f"the graph is on {device}: only a GPU can capture")
        self.graph = graph.eval()
        self._forward: Forward = graph if forward is None else forward
        self._place, self._device = place, device
        self._again = Again(exact, place, device)
        self._batch_size, self._buckets = batch_size, buckets
        self._captures_shapes = place.captures if capture is None else capture
        self._eager_meanwhile = eager_meanwhile
        self._captures = Captures(place.capture_bytes)
        self._wanted: set[Shape] = set()
        """Shapes that are captured, or will be, or cannot be."""
        self._fitting: dict[Size, int] = {}
        """Images of a bucket that fit into the memory, where that is less than a batch."""
        self._capturing = ThreadPoolExecutor(1, "capture")
        self._free: list[HostMemory] = []
        self._lending = threading.Lock()
        self._closed = False

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:N"."""
        return self._place.name

    @property
    def answered_again(self) -> Mapping[str, int]:
        """See `OverlappingEngine`."""
        return self._again.counts

    @property
    def captured(self) -> int:
        """Shapes of batches that are replayed."""
        return len(self._captures)

    def bucket(self, size: Size) -> Size:
        """See `OverlappingEngine`."""
        return size if self._buckets is None else self._buckets.of(size)

    def turn(self) -> AbstractContextManager[None]:
        """To be held by whoever computes on the device besides; see `Place.turn`."""
        return self._place.turn()

    def batch_of(self, size: Size, count: int = 1) -> int:
        """The images that a batch of a bucket is filled up to. Raises OutOfMemory: fewer than `count` fit."""
        if self._batch_size is None:
            return count
        fitting = self._fitting.get(size, self._batch_size)
        if count > fitting:
            raise too_much(count, size, self.device)
        return fitting

    def prepare(self, every_bucket: bool) -> Size:
        """See `OverlappingEngine`. Raises OutOfMemory: not even one image fits."""
        if self._buckets is None or self._batch_size is None:
            raise ValueError("only an engine with buckets and a batch size knows what will come")
        channels = self.graph.channels
        commonest = self._buckets.commonest
        rare = [size for size in self._buckets.all if size not in commonest] if every_bucket else []
        for size in (*rare, *reversed(commonest)):  # the commonest last: where not all fit, the first ones go
            image = np.zeros((*size, channels), np.uint8)
            while not self._fits(size, channels, image):
                pass
        self._place.tidy()
        return commonest[0]

    def _fits(self, size: Size, channels: int, image: NDArray[np.uint8]) -> bool:
        """Whether the bucket is ready; if not, fewer images are tried next."""
        batch = self.batch_of(size)
        try:
            if self._captures_shapes:
                self._capture((batch, *size, channels))
            self.run(image[None], np.array([size], np.int64), np.full(1, NOTHING, np.float32))
        except OutOfMemory:
            if batch == 1:
                raise
            return False
        return True

    def submit(
        self, images: Sequence[NDArray[np.uint8]], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> Pending:
        """See `OverlappingEngine`."""
        with self.telling_loss():
            return self._submit(images, sizes, score_threshold)

    def _submit(
        self,
        images: Sequence[NDArray[np.uint8]],
        sizes: NDArray[np.int64],
        score_threshold: NDArray[np.float32],
        eagerly: bool = False,
    ) -> Pending:
        size = self.bucket((max(image.shape[0] for image in images), max(image.shape[1] for image in images)))
        while True:
            batch = self.batch_of(size, len(images))
            try:
                return self._fill_up(images, sizes, score_threshold, (batch, *size, self.graph.channels), eagerly)
            except OutOfMemory:
                if self.batch_of(size, len(images)) == batch:  # it is not filled up with so many as before
                    raise

    def _fill_up(
        self,
        images: Sequence[NDArray[np.uint8]],
        sizes: NDArray[np.int64],
        score_threshold: NDArray[np.float32],
        shape: Shape,
        eagerly: bool,
    ) -> Pending:
        """The images in a batch of this shape."""
        count, memory = len(images), self._take_memory()
        pixels = memory.room("images", shape, torch.uint8)
        # Outside of an image's valid size nothing is looked at, so what was there before may stay.
        for target, image in zip(pixels.numpy(), images, strict=False):
            target[: image.shape[0], : image.shape[1]] = image
        valid = memory.room("sizes", (shape[0], 2), torch.int64)
        thresholds = memory.room("thresholds", (shape[0],), torch.float32)
        canvases = memory.room("canvases", (shape[0], 2), torch.int64)
        valid.numpy()[:count], valid.numpy()[count:] = sizes, 1
        thresholds.numpy()[:count], thresholds.numpy()[count:] = score_threshold, NOTHING
        canvases.numpy()[:count], canvases.numpy()[count:] = [image.shape[:2] for image in images], shape[1:3]
        return self._give(Inputs(pixels, valid, thresholds, canvases), memory, count, eagerly)

    def submit_tensors(self, images: Tensor, sizes: Tensor, score_threshold: Tensor) -> Pending:
        """`submit` of a whole batch on the host, as it is. Pinned tensors are uploaded without waiting; they must stay
        as they are until the result."""
        memory = self._take_memory()
        canvases = memory.room("canvases", (len(images), 2), torch.int64)
        canvases[:, 0], canvases[:, 1] = images.shape[1], images.shape[2]
        return self._give(Inputs(images, sizes, score_threshold, canvases), memory, len(images))

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """See `Engine.run`. H and W are multiples of 32. Any number of images; OutOfMemory as of one batch of them."""
        size = self._batch_size or len(images)
        answers = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            answers.append(self.submit([*images[part]], sizes[part], score_threshold[part]).result())
        return joined(answers, size)

    def run_eagerly(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """`run` of one batch, kernel by kernel whether or not it is captured."""
        with self.telling_loss():
            return self._submit([*images], sizes, score_threshold, eagerly=True).result()

    def run_exactly(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections | None:
        """`run` of one image by the graph in float32 that answers again; None where there is no such graph."""
        canvases = np.array([images.shape[1:3]], np.int64)
        with self.telling_loss():
            inputs = Inputs(*(torch.from_numpy(part) for part in (images, sizes, score_threshold, canvases)))
            return self._again.alone(inputs, self.forget)

    @contextmanager
    def telling_loss(self) -> Iterator[None]:
        """Around what is computed. Raises DeviceLost in place of an error after which the device does nothing more."""
        try:
            yield
        except (EngineError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            if why := self._place.why_lost():
                raise DeviceLost(f"{self.device} computes nothing more for this process: {why}") from error
            raise

    def answered(self, arrays: dict[str, NDArray[Any]], inputs: Inputs) -> RawDetections:
        """See `Again.answered`."""
        return self._again.answered(arrays, inputs, self.forget)

    def take_back(self, memory: HostMemory) -> None:
        """Of a batch that has been answered."""
        with self._lending:
            self._free.append(memory)

    def forget(self) -> None:
        """Free the captured graphs and their memory. What comes is captured anew."""
        with self._place.turn():
            self._captures.clear()
            self._wanted.clear()
        self._place.tidy()

    def close(self) -> None:
        """`forget`, and begin nothing more. What was begun is still answered. A GPU that hangs is left as it is."""
        self._closed = True
        self._capturing.shutdown(wait=False, cancel_futures=True)

        def forget() -> None:
            with suppress(RuntimeError):  # of a GPU that is lost, with all that it held
                self.forget()

        forgetting = threading.Thread(target=forget, name="forget", daemon=True)
        forgetting.start()
        forgetting.join(CLOSE_SECONDS)

    def _take_memory(self) -> HostMemory:
        with self._lending:
            return self._free.pop() if self._free else HostMemory(self._place.pinned)

    def _give(self, host: Inputs, memory: HostMemory, count: int, eagerly: bool = False) -> Pending:
        shape = tuple(host.images.shape)
        try:
            with self._place.turn(), torch.inference_mode():
                if self._closed:
                    raise EngineError("the engine is closed")
                captured = None if eagerly else self._captured(shape)
                if captured is None:
                    images, sizes, thresholds, canvases = (part.to(self._device, non_blocking=True) for part in host)
                    outputs = self._forward(images, sizes, thresholds, canvases if host.padded else None)
                    fields, packed = self._fields(outputs), pack(outputs)
                else:
                    for target, source in zip(captured.inputs, host, strict=True):
                        target.copy_(source, non_blocking=True)
                    captured.capture.replay()
                    fields, packed = captured.fields, captured.capture.output
                # The device's memory is the next batch's too; the order of the stream keeps them apart.
                answer = memory.room("answer", tuple(packed.shape), torch.uint8)
                answer.copy_(packed, non_blocking=True)
                return Pending(self, self._place.mark(), memory, answer, fields, host, count)
        except torch.OutOfMemoryError as error:  # out of the turn: to give memory back may have to wait
            raise self._out_of_memory(shape) from error

    def _captured(self, shape: Shape) -> Captured | None:
        """The shape's capture, if it is there or is waited for."""
        captured = self._captures.find(shape)
        if captured is not None or not self._captures_shapes or shape in self._wanted:
            return captured
        if not self._eager_meanwhile:
            self._capture(shape)
            return self._captures.find(shape)
        self._wanted.add(shape)
        with suppress(RuntimeError):  # the engine is being closed: what was begun is still answered
            self._capturing.submit(self._try_to_capture, shape)
        return None

    def _try_to_capture(self, shape: Shape) -> None:
        try:
            self._capture(shape)
        except Exception as error:  # whatever it is, the same answers are computed kernel by kernel
            batch, height, width, _ = shape
            logger.warning("batches of %d of %dx%d are not captured: %s", batch, height, width, error)

    def _capture(self, shape: Shape) -> None:
        """Capture a shape, in turns with what is answered. Raises as `_capture_in_the_pool`."""
        if not self._capture_in_the_pool(shape):
            self._place.tidy()  # the pool that was too large is free by now
            self._capture_in_the_pool(shape)

    def _capture_in_the_pool(self, shape: Shape) -> bool:
        """False where there was no room. Raises OutOfMemory, and EngineError where a replay answers otherwise."""
        batch, height, width, _ = shape
        self._wanted.add(shape)
        fields: list[tuple[Field, ...]] = []
        shared: list[Capture | None] = [None]

        def beside() -> Capture | None:
            shared[0] = self._captures.any
            return shared[0]

        def run() -> Tensor:
            with torch.inference_mode():  # which is each thread's own
                outputs = self._forward(*inputs)
                fields.append(self._fields(outputs))
                return pack(outputs)

        try:
            with self._place.turn(), torch.inference_mode():
                if self._closed or shape in self._captures:
                    return True
                sizes = torch.tensor([[height, width]] * batch, dtype=torch.int64, device=self._device)
                inputs = Inputs(
                    torch.zeros(shape, dtype=torch.uint8, device=self._device),
                    sizes,
                    torch.full((batch,), 0.5, device=self._device),
                    sizes.clone(),
                )
            capture = self._place.capture(run, beside)
            captured, memory = Captured(capture, inputs, fields[-1]), self._take_memory()
            require_same(captured, run, self._place, memory)
            self.take_back(memory)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(shape) from error
        with self._place.turn():
            if self._closed or shape in self._captures:
                capture.free()
                return True
            if shared[0] is not None and self._captures.any is None:
                capture.free()  # of a pool whose other captures went meanwhile, and what they left in it is not counted
                return False
            evicted = self._captures.add(shape, captured)
            self._wanted.difference_update(evicted)  # captured again when they come again
        return shape not in evicted

    def _fields(self, outputs: tuple[Tensor, ...]) -> tuple[Field, ...]:
        names = self.graph.static_output_names
        return tuple(Field(name, tuple(part.shape), part.dtype) for name, part in zip(names, outputs, strict=True))

    def _out_of_memory(self, shape: Shape) -> OutOfMemory:
        """From now on fewer images of this bucket are a batch."""
        batch, height, width, _ = shape
        if self._batch_size is not None and batch > 1:
            with self._place.turn():
                fitting = self._fitting.get((height, width), batch)
                self._fitting[height, width] = min(fitting, batch // 2)  # a late capture was of a larger one
                self._captures.drop(shape)
            self._place.tidy()
        return too_much(batch, (height, width), self.device)
