"""Devices by their names."""

from __future__ import annotations

import pytest

from model.runtime.engines.devices import check_device, count_gpus, gpu_index, list_devices


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
