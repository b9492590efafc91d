"""GeoJSON as QuPath reads it: a feature for each object, its outline along pixel edges, classified and measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from model.runtime.analysis.findings import Findings, corners
from model.runtime.analysis.measurements import Measurement
from model.runtime.kernels.polygons import to_polygons
from model.runtime.overlay import PALETTE

Ring = list[list[float]]


def geojson(findings: Findings, measurements: Sequence[Measurement] | None) -> Iterator[bytes]:
    """A FeatureCollection, in pieces. Without masks the outlines are the boxes; a mask without a pixel is left out.

    Pixel (column x, row y) covers x..x+1, y..y+1, as in QuPath, so an outline's area is its pixels' number.
    """
    plane = _plane(findings)
    lead = b'{"type":"FeatureCollection","truncated":' + orjson.dumps(findings.truncated) + b',"features":[\n'
    for row in range(len(findings.detections)):
        geometry = _geometry(findings, row)
        if geometry is None:
            continue
        measured = None if measurements is None else measurements[row]
        feature = {
            "type": "Feature",
            "geometry": geometry | plane,
            "properties": _properties(findings, row, measured),
        }
        yield lead + orjson.dumps(feature)
        lead = b",\n"
    yield lead.removesuffix(b",\n") + b"\n]}\n"


def _geometry(findings: Findings, row: int) -> dict[str, Any] | None:
    masks = findings.detections.masks
    if masks is None:
        x1, y1, x2, y2 = corners(findings.detections.boxes[row])
        parts = [[[x1, y1, x2, y1, x2, y2, x1, y2]]]
    else:
        parts = to_polygons(masks[row])
    polygons = [[_closed(ring) for ring in part] for part in parts]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons} if polygons else None


def _closed(ring: list[float]) -> Ring:
    """Pairs, the first again at the end; whole numbers as such, which take half the bytes."""
    numbers = [int(value) if value.is_integer() else value for value in ring]
    points = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return [*points, points[0]]


def _plane(findings: Findings) -> dict[str, Any]:
    """QuPath's own member of a geometry, where the image is not the first of a stack; -1 is all channels."""
    index = {axis.name: axis.index for axis in findings.plane}
    z, t = index.get("z", 0), index.get("t", 0)
    return {"plane": {"c": -1, "z": z, "t": t}} if z or t else {}


def _properties(findings: Findings, row: int, measured: Measurement | None) -> dict[str, Any]:
    label = int(findings.detections.labels[row])
    measurements = {"Score": float(str(findings.detections.scores[row]))}
    if measured is not None:
        measurements |= _measurements(measured)
    return {
        "objectType": "detection",
        "name": str(row + 1),
        "classification": {"name": findings.name_of(row), "color": PALETTE[(label - 1) % len(PALETTE)]},
        "measurements": {name: value for name, value in measurements.items() if math.isfinite(value)},
    }


def _measurements(one: Measurement) -> dict[str, float]:
    region = one.region
    named: dict[str, float] = {
        "Area px^2": region.area,
        "Perimeter px": region.perimeter,
        "Eccentricity": region.eccentricity,
        "Solidity": region.solidity,
        "Diameter px": one.diameter,
    }
    if one.area_um2 is not None and one.diameter_um is not None:
        named |= {"Area \u00b5m^2": one.area_um2, "Diameter \u00b5m": one.diameter_um}
    for values in one.intensities:
        for what, value in (("mean", values.mean), ("min", values.least), ("max", values.largest)):
            named[f"Channel {values.channel}: {what}"] = value
    return named
