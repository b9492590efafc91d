"""From findings to the file that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from model.runtime.analysis.file_types import FileFormat
from model.runtime.analysis.findings import Findings
from model.runtime.analysis.geojson import geojson
from model.runtime.analysis.imagej import imagej_rois
from model.runtime.analysis.label_image import label_image
from model.runtime.analysis.measurements import measure
from model.runtime.analysis.table import csv_table


def file_of(format: FileFormat, findings: Findings) -> Iterator[bytes]:
    """The file's bytes, in pieces. What needs the image is measured at once, so that whoever reads the pieces slowly
    does not keep it; the rest is computed piece by piece.

    Raises NeedsMasks: a label image without masks.
    """
    without_image = replace(findings, values=None)
    match format:
        case "csv":
            return csv_table(without_image, measure(findings), findings.channels)
        case "geojson":
            return geojson(without_image, measure(findings))
        case "imagej":
            return imagej_rois(without_image)
        case "labels":
            return iter([label_image(without_image)])
