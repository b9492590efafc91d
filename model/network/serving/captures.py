"""The computations that an engine has captured, one for each shape of batch, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from model.network.serving.packing import Field
from model.network.serving.place import Capture

Shape = tuple[int, ...]
"""Of a batch's images: [B, H, W, C]."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""A batch's images, sizes and score thresholds, as `InferenceGraph` takes them."""


@dataclass(frozen=True)
class Captured:
    """A capture with the tensors that it reads, and what lies where in its output."""

    capture: Capture
    inputs: Inputs
    fields: tuple[Field, ...]

    @property
    def bytes(self) -> int:
        return self.capture.bytes + sum(part.nbytes for part in self.inputs)


class Captures:
    """Those used last, up to `most_bytes` in all. What an evicted one held goes to the next that is captured, and back
    to the device with the last one. Not for several threads at once."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._by_shape: OrderedDict[Shape, Captured] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_shape)

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._by_shape

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self._by_shape.values())

    @property
    def any(self) -> Capture | None:
        """One whose memory another may share."""
        return next((one.capture for one in self._by_shape.values()), None)

    def find(self, shape: Shape) -> Captured | None:
        """The shape's, which counts as used now."""
        found = self._by_shape.get(shape)
        if found is not None:
            self._by_shape.move_to_end(shape)
        return found

    def add(self, shape: Shape, captured: Captured) -> list[Shape]:
        """Keeps it, and evicts those that were not used for longest until all fit, but not this one. Which went."""
        self._by_shape[shape] = captured
        self._by_shape.move_to_end(shape)
        evicted = []
        while self.bytes > self._most_bytes and len(self._by_shape) > 1:
            oldest = next(iter(self._by_shape))
            self.drop(oldest)
            evicted.append(oldest)
        return evicted

    def drop(self, shape: Shape) -> None:
        """Frees the shape's, if there is one."""
        if (captured := self._by_shape.pop(shape, None)) is not None:
            captured.capture.free()

    def clear(self) -> None:
        for shape in [*self._by_shape]:
            self.drop(shape)
