"""What the network found in each tile of a picture, kept in a file: another rule of merging is tried without it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from model.runtime.detections import RLE, Detections
from model.runtime.tiling import Tile


class SeenTiles:
    """Detections by tile. Those of `path`, if there is such a file, are of the same model and picture.

    Raises:
        ValueError: they are of others, or the file is none of these.
    """

    def __init__(self, path: Path | None, model: str, picture: NDArray[np.uint8]) -> None:
        """model: the manifest's hash; picture: uint8 [H, W, C]."""
        self._path = path
        self._of = [model, hashlib.sha256(picture.tobytes()).hexdigest()]
        self._tiles: dict[Tile, Detections] = {}
        if path is None or not path.exists():
            return
        try:
            stored = orjson.loads(path.read_bytes())
            known, tiles = stored["of"], stored["tiles"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no file of what was seen in tiles") from error
        if known != self._of:
            raise ValueError(f"{path} has what another model, or this one in another picture, has found")
        for tile, boxes, scores, labels, masks in tiles:
            self._tiles[Tile(*tile)] = Detections(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(scores, np.float32),
                np.array(labels, np.int64),
                [RLE((tile[2], tile[3]), counts.encode()) for counts in masks],
            )

    def get(self, tile: Tile) -> Detections | None:
        """In pixels of the tile; None where it has not been seen."""
        return self._tiles.get(tile)

    def add(self, tile: Tile, found: Detections) -> None:
        """What the network has found in a tile."""
        self._tiles[tile] = found

    def save(self) -> None:
        """All that was seen, where there is a path."""
        if self._path is None:
            return
        tiles = []
        for tile, found in self._tiles.items():
            assert found.masks is not None
            place = [tile.top, tile.left, tile.height, tile.width]
            counts = [mask.counts.decode() for mask in found.masks]
            tiles.append([place, found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), counts])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(orjson.dumps({"of": self._of, "tiles": tiles}))
