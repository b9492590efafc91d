"""Whether a capture repeats what its kernels compute one by one: looked at before it answers anybody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from model.network.serving.captures import Captured
from model.network.serving.comparing import LEAST_ALIKE, alike, reference_images
from model.network.serving.found import detections
from model.network.serving.packing import HostMemory, unpack
from model.network.serving.place import Place
from model.runtime.engines.engine import EngineError


def require_same(captured: Captured, run: Callable[[], Tensor], place: Place, memory: HostMemory) -> None:
    """Compare what is replayed with what `run`, which was captured, gives without: of generated images, each in another
    place of the batch. To be called without a turn. `memory` is free again when this returns.

    Raises EngineError, and frees the capture: of some image too few detections are the same.
    """
    try:
        share = _share(captured, run, place, memory)
    except BaseException:
        with suppress(RuntimeError):  # of a GPU that is lost, with all that it held
            _free(captured, place)
        raise
    if share < LEAST_ALIKE:
        _free(captured, place)
        batch, height, width, _ = captured.inputs.images.shape
        raise EngineError(
            f"on {place.name} a replayed batch of {batch} of {height}x{width} is not what its kernels compute one by "
            f"one: {share:.0%} of an image's detections are the same; choose the onnx engine"
        )


def _share(captured: Captured, run: Callable[[], Tensor], place: Place, memory: HostMemory) -> float:
    """Of the detections that are the same, in the image where that is least."""
    inputs = captured.inputs
    batch, height, width, channels = inputs.images.shape
    image = torch.from_numpy(reference_images(1, (height, width), channels)[0])
    with place.turn(), torch.inference_mode():
        for number, target in enumerate(inputs.images):
            target.copy_(image.roll(number, dims=0))
        inputs.thresholds.zero_()

        def fetched(name: str, packed: Tensor) -> Tensor:
            answer = memory.room(name, tuple(packed.shape), torch.uint8)
            return answer.copy_(packed, non_blocking=True)

        one_by_one = fetched("answer", run())
        captured.capture.replay()
        replayed = fetched("replayed", captured.capture.output)
        wait = place.mark()
    wait()
    answers = [detections(unpack(answer, captured.fields)) for answer in (one_by_one, replayed)]
    return min(alike(*(answer.of_image(number) for answer in answers)) for number in range(batch))


def _free(captured: Captured, place: Place) -> None:
    with place.turn():
        captured.capture.free()
