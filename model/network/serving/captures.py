"""The computations that an engine has captured, one for each shape of batch, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from model.network.serving.packing import Field
from model.network.serving.place import Capture

Shape = tuple[int, ...]
"""Of a batch's images: [B, H, W, C]."""


class Inputs(NamedTuple):
    """A batch as `StaticGraph` takes it, each image in the top left corner of its canvas, and that of the batch's."""

    images: Tensor
    sizes: Tensor
    thresholds: Tensor
    canvases: Tensor

    @property
    def padded(self) -> bool:
        """Whether a canvas is smaller than the batch's. To be asked on the host."""
        return bool((self.canvases != self.canvases.new_tensor(self.images.shape[1:3])).any())

    def alone(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One image in its own canvas as a batch, with its size and threshold, as `InferenceGraph` takes them. On the
        host."""
        height, width = self.canvases[index].tolist()
        one = slice(index, index + 1)
        return self.images[one, :height, :width], self.sizes[one], self.thresholds[one]


@dataclass(frozen=True)
class Captured:
    """A capture with the tensors that it reads, and what lies where in its output."""

    capture: Capture
    inputs: Inputs
    fields: tuple[Field, ...]

    @property
    def input_bytes(self) -> int:
        return sum(part.nbytes for part in self.inputs)


class Captures:
    """Those used last, up to `most_bytes` in all. Not for several threads at once.

    They share a pool of memory, which gives nothing back before the last of them is freed: what an evicted one held
    goes to the next that is captured, as far as it fits. So a pool that is too large is left by all.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._by_shape: OrderedDict[Shape, Captured] = OrderedDict()
        self._pool_bytes = 0

    def __len__(self) -> int:
        return len(self._by_shape)

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._by_shape

    @property
    def bytes(self) -> int:
        """Of the pool, what evicted ones left in it too, and of the tensors beside it."""
        return self._pool_bytes + sum(one.input_bytes for one in self._by_shape.values())

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
        """Keeps it, and evicts those that were not used for longest until all fit. Which went.

        It goes too where that is not enough and the pool was there before it: captured again, it begins one that is as
        large as it needs. That one is kept, however large.
        """
        began_the_pool = not self._by_shape
        self._by_shape[shape] = captured
        self._by_shape.move_to_end(shape)
        self._pool_bytes += captured.capture.bytes
        evicted = []
        while self.bytes > self._most_bytes and len(self._by_shape) > began_the_pool:
            oldest = next(iter(self._by_shape))
            self.drop(oldest)
            evicted.append(oldest)
        return evicted

    def drop(self, shape: Shape) -> None:
        """Frees the shape's, if there is one."""
        if (captured := self._by_shape.pop(shape, None)) is not None:
            captured.capture.free()
        if not self._by_shape:
            self._pool_bytes = 0

    def clear(self) -> None:
        for shape in [*self._by_shape]:
            self.drop(shape)
