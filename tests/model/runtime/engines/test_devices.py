"""Devices by their names."""

from __future__ import annotations

import ctypes

import pytest

from model.runtime.engines import devices
from model.runtime.engines.devices import (
    check_device,
    count_gpus,
    gpu_index,
    list_devices,
    named_gpus,
    said_of_visible_gpus,
)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_names(device: str) -> None:
    check_device(device)
    assert gpu_index(device) == {"cuda:12": 12}.get(device, 0)


@pytest.mark.parametrize("device", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "cpu,cpu"])
def test_what_is_no_name_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or cuda:N"):
        check_device(device)


def test_several_devices_by_name() -> None:
    assert list_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert list_devices("cpu,cpu") == ("cpu", "cpu")
    with pytest.raises(ValueError, match="names auto among others"):
        list_devices("auto,cpu")
    with pytest.raises(ValueError, match="no device ''"):
        list_devices("cpu,")


def test_auto_is_every_gpu_if_there_are_several() -> None:
    gpus = count_gpus()
    expected = tuple(f"cuda:{index}" for index in range(gpus)) if gpus > 1 else ("auto",)
    assert list_devices("auto") == expected


def test_a_library_that_only_has_the_drivers_name_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver", lambda: ctypes.CDLL(None))
    assert count_gpus() == 0


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (None, None),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("1, 0", 2),
        ("0,foo,1", 3),
        ("0,-1,1", 1),
        ("GPU-8932f937,MIG-1a2b", 2),
    ],
)
def test_gpus_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, names: str | None, named: int | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert named_gpus() == named
    assert said_of_visible_gpus() == ("" if names is None else f" (CUDA_VISIBLE_DEVICES is {names!r})")
