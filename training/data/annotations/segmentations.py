"""All masks of a dataset in a few flat arrays, instead of a handful of Python objects for each."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.fields import Segmentation
from training.data.annotations.shared import SharedArrays

ABSENT, RUNS, POLYGONS = range(3)
"""Kinds of a mask: none, RLE, polygons."""


class PackedSegmentations(Sequence[Segmentation]):
    """N segmentations of a dataset's M; each is made when it is asked for, polygons as views.

    The arrays, for mask m:
    kinds: uint8 [M]. sizes: int32 [M, 2], (height, width) of an RLE.
    counts: uint8, the RLEs' strings; m's is counts[count_offsets[m]:count_offsets[m + 1]].
    points: float64 [P, 2]; m's polygons are number part_offsets[m] to part_offsets[m + 1], and polygon p is
    points[point_offsets[p]:point_offsets[p + 1]].
    """

    def __init__(self, arrays: SharedArrays, rows: NDArray[np.int64] | None = None) -> None:
        """rows: int64 [N], which of the M; None: all of them."""
        self._arrays, self._rows = arrays, rows

    @classmethod
    def pack(cls, segmentations: Iterable[Segmentation]) -> PackedSegmentations:
        """Packs segmentations; a selection of packed ones into arrays without the others."""
        if isinstance(segmentations, PackedSegmentations) and segmentations._rows is None:
            return segmentations
        # raw buffers grow in place: no list of all objects is held
        kinds, sizes, counts, points = bytearray(), array("i"), bytearray(), bytearray()
        count_offsets, part_offsets, point_offsets = array("q", [0]), array("q", [0]), array("q", [0])
        for segmentation in segmentations:
            size = (0, 0)
            if segmentation is None:
                kinds.append(ABSENT)
            elif isinstance(segmentation, RLE):
                kinds.append(RUNS)
                size = segmentation.size
                counts += segmentation.counts
            else:
                kinds.append(POLYGONS)
                for polygon in segmentation:
                    points += np.asarray(polygon, np.float64).tobytes()
                    point_offsets.append(len(points) // 16)
            sizes.extend(size)
            count_offsets.append(len(counts))
            part_offsets.append(len(point_offsets) - 1)
        return cls(
            SharedArrays(
                kinds=np.array(kinds, np.uint8),
                sizes=np.array(sizes, np.int32).reshape(-1, 2),
                counts=np.array(counts, np.uint8),
                count_offsets=np.array(count_offsets, np.int64),
                points=np.frombuffer(points, np.float64).reshape(-1, 2).copy(),
                part_offsets=np.array(part_offsets, np.int64),
                point_offsets=np.array(point_offsets, np.int64),
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, those of the whole dataset."""
        return self._arrays.nbytes

    def content(self) -> Iterator[bytes]:
        """All masks as bytes, those of the whole dataset."""
        for name in ("kinds", "sizes", "counts", "count_offsets", "points", "part_offsets", "point_offsets"):
            yield self._arrays[name].tobytes()

    def take(self, rows: NDArray[np.int64] | slice) -> PackedSegmentations:
        """The chosen ones, on the same arrays."""
        all_rows = np.arange(len(self)) if self._rows is None else self._rows
        return PackedSegmentations(self._arrays, all_rows[rows])

    def between(self, start: int, stop: int) -> PackedSegmentations:
        """Number `start` to `stop` of the M, on the same arrays."""
        return PackedSegmentations(self._arrays, np.arange(start, stop))

    def __len__(self) -> int:
        return len(self._arrays["kinds"]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Segmentation: ...
    @overload
    def __getitem__(self, index: slice) -> PackedSegmentations: ...
    def __getitem__(self, index: int | slice) -> Segmentation | PackedSegmentations:
        if isinstance(index, slice):
            return self.take(index)
        mask = range(len(self))[index] if self._rows is None else int(self._rows[index])
        arrays = self._arrays
        kind = arrays["kinds"][mask]
        if kind == ABSENT:
            return None
        if kind == RUNS:
            start, stop = arrays["count_offsets"][mask : mask + 2]
            height, width = arrays["sizes"][mask].tolist()
            return RLE((height, width), arrays["counts"][start:stop].tobytes())
        first, last = arrays["part_offsets"][mask : mask + 2]
        edges = arrays["point_offsets"][first : last + 1].tolist()
        return tuple(arrays["points"][start:stop] for start, stop in pairwise(edges))

    def __reduce__(self) -> tuple[Callable[..., PackedSegmentations], tuple[Any, ...]]:
        if self._rows is None:
            return PackedSegmentations, (self._arrays,)
        return PackedSegmentations.pack, (tuple(self),)  # a few of the masks do not take all of them along
