"""What was found in the tiles of the last large pictures, for whoever asks about the same picture again.

A large picture is looked at first and then taken away: as ROIs, as a table, at another threshold. Each is a request of
its own with the whole file, of which the network has just seen every tile. What it finds depends on nothing but the
pixels that it takes, so these are what a tile is known by, whatever file they came from and however they were asked
for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.preprocess import Prepared
from service.models.catalog import Fingerprint, ServedModel

MOST_BYTES = 32 * 1024**2
"""Of what is remembered, about: a hundred or two megapixels of a crowded picture."""
BYTES_A_TILE, BYTES_A_DETECTION = 500, 200
"""What Python's objects take besides the masks."""

Key = tuple[str, int, str, Fingerprint, bytes]
"""A tile's pixels, and the network that sees them."""


@dataclass(frozen=True, slots=True, eq=False)
class SeenTile:
    """All that the network finds in a tile above the score `least`.

    scores: float32 [N], falling; labels: int64 [N]. `detections`, in pixels of the tile, are those of them that score
    more than their label's threshold in `kept_from`, float32 by label id; both None where nobody wanted any.
    """

    least: float
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    detections: Detections | None = None
    kept_from: NDArray[np.float32] | None = None

    def holds(self, score_thresholds: NDArray[np.float32]) -> bool:
        """Whether `detections` are all that score more than these, by label id."""
        return self.kept_from is not None and bool((self.kept_from <= score_thresholds)[1:].all())

    def above(self, least: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and labels of what the network finds above that score, which is not below `self.least`."""
        count = int((self.scores > np.float32(least)).sum())
        return self.scores[:count], self.labels[:count]

    @property
    def nbytes(self) -> int:
        """About what it takes."""
        size = BYTES_A_TILE + BYTES_A_DETECTION * len(self.scores)
        if self.detections is None:
            return size
        if self.detections.keypoints is not None:
            size += self.detections.keypoints.nbytes
        return size + sum(len(mask.counts) for mask in self.detections.masks or ())


class TileMemory:
    """For the event loop, but for `key_of`."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._tiles: OrderedDict[Key, SeenTile] = OrderedDict()
        self.nbytes = 0

    @staticmethod
    def key_of(model: ServedModel, prepared: Prepared) -> Key:
        """Takes milliseconds: for a thread."""
        digest = hashlib.blake2b(repr((prepared.pixels.shape, prepared.valid, prepared.original)).encode())
        digest.update(prepared.pixels.tobytes())
        return model.name, model.version, model.precision, model.fingerprint, digest.digest()

    def recall(self, key: Key, least: float) -> SeenTile | None:
        """What is known of a tile, if that is all above the score `least`."""
        seen = self._tiles.get(key)
        if seen is None or seen.least > least:
            return None
        self._tiles.move_to_end(key)
        return seen

    def remember(self, seen: Mapping[Key, SeenTile]) -> None:
        """Once a picture is done or given up, what was seen of it; what was asked for longest ago goes."""
        for key, tile in seen.items():
            before = self._tiles.pop(key, None)
            if before is not None:
                self.nbytes -= before.nbytes
            self._tiles[key] = tile
            self.nbytes += tile.nbytes
        while self.nbytes > self._most_bytes:
            _, gone = self._tiles.popitem(last=False)
            self.nbytes -= gone.nbytes
