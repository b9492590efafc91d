"""What the images' virtual environments are made of."""

from __future__ import annotations

import tomllib

import pytest

from docker.packages import CONSTRAINTS, CUDA, normalized, read_pins, requirements, unpinned
from tests.service.harness import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = read_pins(line for file in CONSTRAINTS for line in (ROOT / file).read_text().splitlines())


def names(target: str, machine: str = "x86_64") -> set[str]:
    lines = requirements(PROJECT, PINS, target, machine)
    return {normalized(line.split(";")[0].split("[")[0].split("=")[0].split(">")[0]) for line in lines}


def test_serving_brings_what_the_project_asks_for_and_no_torch() -> None:
    assert {"fastapi", "numba", "uvloop"} <= names("serve-cpu") & names("serve-cuda")
    assert not {"torch", "torchvision"} & (names("serve-cpu") | names("serve-cuda"))


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
    lines = requirements(PROJECT, PINS, target, machine)
    assert ("onnxruntime-gpu" in lines) == cuda
    assert (f"onnxruntime=={PINS['onnxruntime-gpu']}" in lines) != cuda
    assert ("nvidia-curand" in lines) == cuda


def test_cuda_for_serving_leaves_out_what_no_detector_needs() -> None:
    cuda = {name for name in names("serve-cuda") if name.startswith("nvidia-")}
    assert cuda == {*CUDA, "nvidia-ml-py"}
    assert set(CUDA) <= set(PINS)


def test_training_brings_the_extra_of_that_name() -> None:
    assert names("train") >= {"torch", "torchvision", "onnxscript", "tensorboard", "onnxruntime-gpu"}


def test_a_package_that_nothing_pins_is_told() -> None:
    pins = read_pins(["# a comment", "Some.Name==1.2", "", "other==3  # why"])
    assert pins == {"some-name": "1.2", "other": "3"}
    assert unpinned({"some-name": "1.2"}, pins) == []
    assert unpinned({"some-name": "1.3", "other": "3", "third": "4"}, pins) == ["some-name==1.3", "third==4"]
