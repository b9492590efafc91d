"""A ZIP of ROIs as ImageJ's and Fiji's ROI Manager opens it, one for each object, named by its number and class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO, cast
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

from model.runtime.analysis.findings import Findings, corners
from model.runtime.kernels.polygons import to_polygons
from model.runtime.overlay import PALETTE

_MOVE_TO, _LINE_TO, _CLOSE = 0.0, 1.0, 4.0
"""Of java.awt.geom.PathIterator."""
_MAX_NAME = 60  # characters of a class


class _Pieces:
    """What a ZIP is written into, and taken from piece by piece. It cannot be sought in, which zipfile respects."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def imagej_rois(findings: Findings) -> Iterator[bytes]:
    """The ZIP's bytes in pieces; the same objects give the same bytes.

    Corners lie on pixel edges: ImageJ takes a pixel whose center is inside, so the ROI has exactly the mask's pixels.
    An outline without holes is a traced ROI; several parts, or holes, make one composite ROI. Without masks the ROIs
    are the boxes. A mask without a pixel is left out.
    """
    digits = max(4, len(str(len(findings.detections))))
    stream = _Pieces()
    with ZipFile(cast(IO[bytes], stream), "w") as archive:
        for row in range(len(findings.detections)):
            # ImageJ names a ROI by its file. Not every system's file names may hold what a class name may.
            class_name = re.sub(r"[^\w .+-]", "_", findings.name_of(row))[:_MAX_NAME]
            name = f"{row + 1:0{digits}}-{class_name}"
            roi = _roi(findings, row, name)
            if roi is None:
                continue
            entry = ZipInfo(f"{name}.roi")  # of 1980, not of now
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, roi.tobytes())
            yield stream.take()
    yield stream.take()


def _roi(findings: Findings, row: int, name: str) -> ImagejRoi | None:
    detections = findings.detections
    if detections.masks is None:
        x1, y1, x2, y2 = corners(detections.boxes[row])
        roi = ImagejRoi.frompoints(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), name=name)
        roi.roitype = ROI_TYPE.POLYGON
    else:
        rings = [np.array(ring).reshape(-1, 2) for part in to_polygons(detections.masks[row]) for ring in part]
        if not rings:
            return None
        if len(rings) == 1:
            roi = ImagejRoi.frompoints(rings[0].astype(np.int64), name=name)
            roi.roitype = ROI_TYPE.TRACED
        else:
            roi = _composite(rings, name)
    roi.stroke_color = bytes([255, *PALETTE[(int(detections.labels[row]) - 1) % len(PALETTE)]])
    roi.props = f"class: {findings.name_of(row)}\nscore: {detections.scores[row]!s}\n"
    _put_on_plane(roi, findings)
    return roi


def _composite(rings: Sequence[NDArray[np.float64]], name: str) -> ImagejRoi:
    """Rings float64 [N, 2] of any number: holes run the other way round, so both rules of filling leave them out."""
    path: list[float] = []
    for ring in rings:
        for kind, (x, y) in zip([_MOVE_TO, *[_LINE_TO] * (len(ring) - 1)], ring.tolist(), strict=True):
            path += [kind, x, y]
        path.append(_CLOSE)
    coordinates = np.array(path, np.float32)
    roi = ImagejRoi(roitype=ROI_TYPE.RECT, name=name, shape_roi_size=len(path), multi_coordinates=coordinates)
    points = np.concatenate(rings).astype(int)
    (roi.left, roi.top), (roi.right, roi.bottom) = points.min(0).tolist(), points.max(0).tolist()
    return roi


def _put_on_plane(roi: ImagejRoi, findings: Findings) -> None:
    """Of a stack, the slice that the object was seen in, whatever its channel; ImageJ counts from 1."""
    index = {axis.name: axis.index for axis in findings.plane}
    if index.keys() & {"page", "z", "t"}:
        if len(findings.plane) == 1:
            roi.position = next(iter(index.values())) + 1
        else:
            roi.z_position, roi.t_position = index.get("z", 0) + 1, index.get("t", 0) + 1
