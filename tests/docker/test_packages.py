"""What the images' virtual environments are made of."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from docker.packages import (
    BILL,
    BILL_OF,
    CONSTRAINTS,
    EXTRAS,
    REMOVED,
    normalized,
    read_pins,
    requirements,
    unpinned,
    unused,
    write_bill,
)
from tests.service.harness import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = read_pins(line for file in CONSTRAINTS for line in (ROOT / file).read_text().splitlines())


def names(target: str, machine: str = "x86_64", system: str = "linux") -> set[str]:
    """What the lines for a target come to on a machine."""
    wanted = map(Requirement, requirements(PROJECT, target))
    environment = {"platform_machine": machine, "sys_platform": system}
    return {normalized(one.name) for one in wanted if one.marker is None or one.marker.evaluate(environment)}


def test_serving_brings_what_the_project_asks_for_and_no_torch() -> None:
    assert {"fastapi", "numba", "uvloop"} <= names("serve-cpu") & names("serve-cuda")
    assert not {"torch", "torchvision"} & (names("serve-cpu") | names("serve-cuda"))


def test_the_image_with_torch_has_what_both_engines_need_and_nothing_of_training() -> None:
    assert names("serve-cuda-torch") == names("serve-cuda") | {"torch", "torchvision", "onnx"}


@pytest.mark.parametrize(
    ("target", "machine", "cuda"),
    [
        ("serve-cpu", "x86_64", False),
        ("serve-cpu", "aarch64", False),
        ("serve-cuda", "x86_64", True),
        ("train", "x86_64", True),
        ("train", "aarch64", False),  # no such wheel
    ],
)
def test_onnx_runtime_comes_with_cuda_only_where_it_is_of_use(target: str, machine: str, cuda: bool) -> None:
    found = names(target, machine)
    assert ("onnxruntime-gpu" in found) == cuda
    assert ("onnxruntime" in found) != cuda
    assert ("nvidia-curand" in found) == cuda
    assert PINS["onnxruntime"] == PINS["onnxruntime-gpu"]


@pytest.mark.parametrize(
    ("target", "machine", "openvino"),
    [
        ("serve-cpu", "x86_64", True),
        ("serve-cpu", "aarch64", False),  # no wheel for the base image's glibc
        ("serve-cuda", "x86_64", False),
    ],
)
def test_openvino_is_in_the_image_for_cpus(target: str, machine: str, openvino: bool) -> None:
    assert ("openvino" in names(target, machine)) == openvino


def test_cuda_for_serving_leaves_out_what_no_detector_needs() -> None:
    cuda = {name for name in names("serve-cuda") if name.startswith("nvidia-")}
    assert "nvidia-cufft" not in cuda
    assert cuda >= {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-curand"}
    assert cuda <= set(PINS)


def test_training_brings_the_extra_of_that_name() -> None:
    assert names("train") >= {"torch", "torchvision", "onnxscript", "tensorboard", "onnxruntime-gpu"}


@pytest.mark.parametrize(
    ("system", "machine", "runtime"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_every_machine_gets_one_onnx_runtime_that_has_wheels_for_it(system: str, machine: str, runtime: str) -> None:
    """`make platforms` asks the index whether it has."""
    assert {name for name in names("train", machine, system) if name.startswith("onnxruntime")} == {runtime}


@pytest.mark.parametrize("target", EXTRAS)
def test_what_is_left_out_is_there_to_be_left_out(target: str) -> None:
    """In the environment of the tests: a package that moved its files would be whole again, and nobody would notice."""
    packages = Path(sysconfig.get_path("purelib"))
    for pattern in unused(target):
        if "**" not in pattern and (packages / pattern.split("/")[0]).is_dir():
            assert any(packages.glob(pattern)), pattern
    assert set(REMOVED.get(target, [])) <= set(PINS)


def test_torch_keeps_what_only_onnx_runtime_was_tried_without() -> None:
    (of_recurrent,) = set(unused("serve-cuda")) - set(unused("serve-cuda-torch"))
    assert "libcudnn_adv" in of_recurrent
    assert unused("train") == ()


def test_a_package_that_nothing_pins_is_told() -> None:
    pins = read_pins(["# a comment", "Some.Name==1.2", "", "other==3  # why"])
    assert pins == {"some-name": "1.2", "other": "3"}
    assert unpinned({"some-name": "1.2"}, pins) == []
    assert unpinned({"some-name": "1.3", "other": "3", "third": "4"}, pins) == ["some-name==1.3", "third==4"]


def test_the_bill_names_what_is_installed_with_version_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small environment; that of the tests stands for the one that the tool is installed into."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    for name, version, licence in (("some-package", "1.2", "MIT"), ("another", "3", "Apache-2.0")):
        about = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n"
        (about / "METADATA").write_text(text)
    monkeypatch.chdir(ROOT)
    write_bill(Path(sys.prefix), venv)
    bill = json.loads((venv / BILL).read_text())
    found = {(one["name"], one["version"], one["licenses"][0]["license"]["id"]) for one in bill["components"]}
    assert found == {("some-package", "1.2", "MIT"), ("another", "3", "Apache-2.0")}
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "maskserve")
    first = (venv / BILL).read_bytes()
    write_bill(Path(sys.prefix), venv)
    assert (venv / BILL).read_bytes() == first
    assert normalized(BILL_OF) in PINS
