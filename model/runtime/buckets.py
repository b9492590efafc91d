"""The padded sizes of the engine `cuda`: few for many images, as each costs a captured graph, its memory and a second.

They change no answer: each image is answered as in the canvas that the preprocessing gives it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from model.runtime.images.picture import Size
from model.runtime.preprocess import Preprocessing

GROWTH: Final = 1.2
"""How many times as long as the next shorter one a side may be: what is computed of padding at most."""
RARE_GROWTH: Final = 1.5
"""The same below the shortest side of usual images, where only very long ones have theirs."""
USUAL: Final = ((768, 1024), (1024, 768), (1024, 1024), (683, 1024), (1024, 683))
"""(height, width) of the images that are expected while nobody has sent any."""


class Buckets:
    """The padded sizes in which the engine computes the images of a model; each depends on the image's size alone."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._fine, step = preprocessing, preprocessing.bucket_step
        longest, shortest = (-(-side // step) * step for side in (preprocessing.max_size, preprocessing.min_size))
        sides = {longest, shortest, step}
        for side, end, growth in ((longest, shortest, GROWTH), (shortest, step, RARE_GROWTH)):
            while (side := int(side / growth) // step * step) > end:
                sides.add(side)
        self.sides = tuple(sorted(sides))
        """Pixels: each side of an image is padded to the next of these."""

    def of(self, size: Size) -> Size:
        """For what was padded to `size`, a bucket of the preprocessing.

        Raises ValueError where it is larger than all.
        """
        height, width = size
        if max(size) > self.sides[-1]:
            raise ValueError(f"an image of {height}x{width} is larger than the model's longest side {self.sides[-1]}")
        return self._longer(height), self._longer(width)

    @property
    def commonest(self) -> list[Size]:
        """Those of usual images, the commonest first."""
        return list(dict.fromkeys(self.of(self._fine.bucket(size)) for size in USUAL))

    @property
    def all(self) -> list[Size]:
        """Every one that an image can get, the largest first."""
        return list(dict.fromkeys(self.of(size) for size in self._fine.buckets()))

    def _longer(self, side: int) -> int:
        return self.sides[bisect_left(self.sides, side)]
