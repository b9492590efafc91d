"""What /proc/cpuinfo tells, on processors of several makes and where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.runtime.engines.processor import processor_features, processor_name


def cpuinfo(folder: Path, *processors: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text("\n\n".join(processors) + "\n")
    return file


INTEL = "processor\t: 0\nmodel name\t: Some Xeon @ 2.0GHz\nflags\t\t: fpu avx2 avx512_vnni amx_int8\nvmx flags\t: vnmi"


@pytest.mark.parametrize(
    ("processors", "features", "name"),
    [
        pytest.param([INTEL], {"fpu", "avx2", "avx512_vnni", "amx_int8"}, "Some Xeon @ 2.0GHz", id="one"),
        pytest.param(
            [INTEL, "model name : Little\nflags : fpu avx2"],
            {"fpu", "avx2"},
            "Some Xeon @ 2.0GHz",
            id="two kinds: what both have",
        ),
        pytest.param(["model name:\nflags :"], set(), None, id="nothing behind the colons"),
        pytest.param(["processor : 0\nFeatures : fp asimd"], set(), None, id="ARM, whose names are others"),
    ],
)
def test_cpuinfo(processors: list[str], features: set[str], name: str | None, tmp_path: Path) -> None:
    file = cpuinfo(tmp_path, *processors)
    assert processor_features(file) == features
    if name is not None:
        assert processor_name(file) == name


def test_a_system_without_it(tmp_path: Path) -> None:
    assert processor_features(tmp_path / "missing") == frozenset()
    assert isinstance(processor_name(tmp_path / "missing"), str)
