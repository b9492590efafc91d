"""The memory of GPUs, where there are any."""

from __future__ import annotations

import subprocess
import sys

import pytest

from model.runtime.engines.devices import count_gpus
from service.observability.device_memory import read_memory
from tests.patience import PATIENCE
from tests.service.harness import ROOT


def test_a_cpu_has_no_memory_of_its_own() -> None:
    assert read_memory([]) == {}
    assert read_memory(["cpu", "cpu"]) == {}


def test_without_a_gpu_no_driver_is_loaded() -> None:
    program = (
        "import sys; sys.addaudithook(lambda event, given: event == 'ctypes.dlopen' and print('loads', given[0]))\n"
        "from service.observability.device_memory import read_memory\n"
        "print(read_memory(['cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loads") and line != "loads None"]
    assert done.stdout.endswith("{}\n"), done.stderr
    assert not [line for line in loaded if "cuda" in line or "nvidia" in line]


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_left_out() -> None:
    assert read_memory(["cuda", "cuda:1", "cpu"]) == {}


@pytest.mark.gpu
@pytest.mark.skipif(count_gpus() == 0, reason="needs a GPU")
def test_a_gpu_tells_what_is_in_use_and_what_there_is() -> None:
    memory = read_memory(["cuda:0", "cpu", "cuda:999"])
    assert set(memory) == {"cuda:0"}
    used, total = memory["cuda:0"]
    assert 0 < used <= total
