"""A full disk is an error that names the file, whichever of torch's functions writes."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.network.exporting.saving import save_whole


def as_weights(buffer: Any) -> None:
    torch.save({"weight": torch.ones(5000)}, buffer)


def as_torchscript(buffer: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(70, 70), torch.ones(1, 70)), buffer)


@pytest.mark.parametrize("save", [as_weights, as_torchscript])
def test_a_full_disk_names_the_file(save: Callable[[Any], None], tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{file}'"):
            save_whole(save, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    save_whole(save, file)
    assert file.stat().st_size > 10_000
