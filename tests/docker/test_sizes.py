"""What docs/docker.md says of the images' sizes is whole: every target, and layers that make up the image."""

from __future__ import annotations

import re

import pytest

from tests.docker.dockerfile import TARGETS
from tests.service.harness import ROOT

TEXT = (ROOT / "docs" / "docker.md").read_text()
UNITS = {"MB": 1.0, "GB": 1e3}


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header begins so, the header's own first."""
    table = TEXT[TEXT.index(header) :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def megabytes(cell: str) -> float:
    number, unit = cell.split()
    return float(number) * UNITS[unit]


SIZES = {target.strip("`"): megabytes(size) for target, size, *_ in rows("| target | size |")[2:]}


def test_every_target_has_a_measured_size() -> None:
    assert tuple(SIZES) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_the_layers_make_up_the_image(target: str) -> None:
    """To half a percent: both are rounded."""
    header, _, *layers = rows("| layer |")
    column = header.index(f"`{target}`")
    assert sum(megabytes(row[column]) for row in layers) == pytest.approx(SIZES[target], rel=0.005)


def test_the_image_for_cpus_is_as_small_as_its_test_wants_it() -> None:
    limit = re.search(r"^limit_mb=(\d+)$", (ROOT / "docker" / "test.sh").read_text(), re.MULTILINE)
    assert limit is not None
    assert SIZES["serve-cpu"] <= float(limit[1])
