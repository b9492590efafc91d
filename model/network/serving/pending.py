"""A batch on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from model.network.serving.captures import Inputs
from model.network.serving.packing import Field, HostMemory, unpack
from model.runtime.detections import RawDetections

if TYPE_CHECKING:
    from model.network.serving.engine import StaticEngine


class Pending:
    """A batch that the engine was given: `count` images. The host's memory `inputs` is its own until the result."""

    def __init__(
        self,
        engine: StaticEngine,
        wait: Callable[[], None],
        memory: HostMemory,
        answer: Tensor,
        fields: tuple[Field, ...],
        inputs: Inputs,
        count: int,
    ) -> None:
        self._engine, self._wait, self._memory = engine, wait, memory
        self._answer, self._fields, self._inputs, self._count = answer, fields, inputs, count

    def result(self) -> RawDetections:
        """Wait for the batch, and answer again what was not answered well. Releases the GIL meanwhile.

        Raises OutOfMemory, DeviceLost.
        """
        with self._engine.telling_loss():
            self._wait()
            arrays = {name: values[: self._count] for name, values in unpack(self._answer, self._fields).items()}
            raw = self._engine.answered(arrays, self._inputs)
        self._engine.take_back(self._memory)  # not if anything was raised: the device may still be at it
        return raw
