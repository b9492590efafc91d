"""What /proc/cpuinfo tells, on processors of several makes and where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.runtime.engines.processor import processor_features, processor_identity, processor_name


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


ARM = "processor : {}\nBogoMIPS : 50\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : {}"


@pytest.mark.parametrize(
    ("one", "another"),
    [
        pytest.param(INTEL, INTEL.replace("amx_int8", "amx_fp16"), id="other instructions"),
        pytest.param(INTEL, INTEL.replace("2.0GHz", "2.5GHz"), id="another name"),
        pytest.param(ARM.format(0, "0xd40"), ARM.format(0, "0xd4f"), id="ARM, another part"),
    ],
)
def test_processors_are_told_apart(one: str, another: str, tmp_path: Path) -> None:
    assert processor_identity(cpuinfo(tmp_path, one)) != processor_identity(cpuinfo(tmp_path, another))


@pytest.mark.parametrize("processor", [INTEL, ARM.format(0, "0xd40")], ids=["x86", "ARM"])
def test_the_same_processor_is_told_alike_at_every_start(processor: str, tmp_path: Path) -> None:
    """Its clock changes meanwhile, and a container may have more of its cores."""
    now = processor_identity(cpuinfo(tmp_path, f"{processor}\ncpu MHz : 2000.0"))
    later = processor.replace("processor : 0", "processor : 1").replace("processor\t: 0", "processor\t: 1")
    assert processor_identity(cpuinfo(tmp_path, processor, f"{later}\ncpu MHz : 800.0")) == now


def test_off_linux_the_platforms_word_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor_identity(tmp_path / "missing") == ("arm64", "arm")


def test_a_system_without_it(tmp_path: Path) -> None:
    assert processor_features(tmp_path / "missing") == frozenset()
    assert isinstance(processor_name(tmp_path / "missing"), str)
