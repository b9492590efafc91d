"""A CSV table of measurements: a header, then a row for each object."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from io import StringIO

from model.runtime.analysis.file_types import CSV_COLUMNS, intensity_columns
from model.runtime.analysis.findings import Findings, corners
from model.runtime.analysis.measurements import Measurement

_ROWS = 1000  # in a piece


def csv_table(
    findings: Findings, measurements: Sequence[Measurement] | None, channels: Sequence[int]
) -> Iterator[bytes]:
    """UTF-8, in pieces, with columns for the intensities of these channels.

    What is unknown is empty: everything but the area, which is the box's, where there are no masks; the shape of a mask
    without a pixel; micrometers where the pixels' size is unknown.
    """
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    header = [*CSV_COLUMNS, *intensity_columns(channels)]
    rows.writerow(header)
    detections = findings.detections
    for row in range(len(detections)):
        box = corners(detections.boxes[row])
        label_id, score = int(detections.labels[row]), detections.scores[row]
        start = [*reversed(findings.size), findings.name_of(row), label_id, float(str(score)), *box]
        if measurements is None:
            measured: list[object] = [round((box[2] - box[0]) * (box[3] - box[1]), 3), row + 1]
        else:
            measured = _measured(measurements[row], row + 1)
        rows.writerow([*start, *measured, *[""] * (len(header) - len(start) - len(measured))])
        if row % _ROWS == _ROWS - 1:
            yield _taken(text)
    yield _taken(text)


def _measured(one: Measurement, number: int) -> list[object]:
    region = one.region
    shape = (region.perimeter, region.eccentricity, region.solidity, region.x, region.y)
    values: list[object] = [region.area, number, *("" if math.isnan(value) else value for value in shape)]
    values += [one.diameter, *("" if value is None else value for value in (one.area_um2, one.diameter_um))]
    for channel in one.intensities:
        values += [channel.mean, channel.least, channel.largest]
    return values


def _taken(text: StringIO) -> bytes:
    taken = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return taken
