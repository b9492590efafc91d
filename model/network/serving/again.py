"""Images that half precision may have answered wrongly are computed once more, in float32."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.network.graph.inference import InferenceGraph
from model.network.serving.captures import Inputs
from model.network.serving.found import detections, joined
from model.network.serving.place import Place, too_much
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import EngineError

OVERFLOW: Final = "overflow"
INEXACT: Final = "inexact"

logger = logging.getLogger(__name__)


class Again:
    """Answers again by the graph `exact`, if there is one, and counts. May be called from any thread, by several.

    `make_room` frees what the device can do without. It is given with each call: an engine that is held by what it
    holds would leave its weights to the collector of garbage.
    """

    def __init__(self, exact: InferenceGraph | None, place: Place, device: torch.device) -> None:
        self.exact = exact
        self._place, self._device = place, device
        self._counts: Counter[str] = Counter({OVERFLOW: 0, INEXACT: 0})
        self._counting = threading.Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """Images by what was wrong with them: an overflow, or too few candidates for an exact answer."""
        with self._counting:
            return dict(self._counts)

    def answered(self, arrays: dict[str, NDArray[Any]], inputs: Inputs, make_room: Callable[[], None]) -> RawDetections:
        """The detections of a batch's images, those of which something is wrong computed once more.

        arrays: as `unpack` gives them; inputs: those of the batch, on the host.
        """
        wrong = np.flatnonzero(~(arrays["finite"] & arrays["exact"]))
        if len(wrong) == 0:
            return detections(arrays)
        overflows = int((~arrays["finite"]).sum())
        with self._counting:
            self._counts[OVERFLOW] += overflows
            self._counts[INEXACT] += len(wrong) - overflows
        exact = self.exact
        if exact is None:
            return detections(arrays)
        parts = [
            self._one(exact, inputs, index, len(arrays["exact"]), make_room)
            if index in wrong
            else detections({name: values[index : index + 1] for name, values in arrays.items()})
            for index in range(len(arrays["exact"]))
        ]
        return joined(parts, 1)

    def alone(self, inputs: Inputs, make_room: Callable[[], None]) -> RawDetections | None:
        """What the graph answers to a batch of one image; None where there is no such graph. Raises OutOfMemory."""
        return None if self.exact is None else self._one(self.exact, inputs, 0, 1, make_room)

    def _one(
        self, exact: InferenceGraph, inputs: Inputs, index: int, count: int, make_room: Callable[[], None]
    ) -> RawDetections:
        """Of one image of `count`; where memory is short, without captured graphs.

        Raises OutOfMemory, but EngineError where there are several: smaller batches would not help, and run again alone
        it fails alone.
        """
        one = inputs.alone(index)
        try:
            return self._compute(exact, one)
        except torch.OutOfMemoryError:
            name = self._place.name
            logger.warning("%s has no memory to compute an image once more: captured graphs are freed", name)
        make_room()
        try:
            return self._compute(exact, one)
        except torch.OutOfMemoryError as error:
            short = too_much(1, (one[0].shape[1], one[0].shape[2]), self._place.name)
            raise (short if count == 1 else EngineError(str(short))) from error

    def _compute(self, exact: InferenceGraph, inputs: tuple[torch.Tensor, ...]) -> RawDetections:
        with self._place.turn(), torch.inference_mode():
            outputs = exact(*(part.to(self._device) for part in inputs))
            values = {name: part.cpu().numpy() for name, part in zip(exact.output_names, outputs, strict=True)}
        return RawDetections(**values)
