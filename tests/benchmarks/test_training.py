"""The comparison of training loops, small: both really train, take turns, and are gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.training import loops
from benchmarks.training.__main__ import main
from training.data.shapes import write_shapes


def test_both_loops_train_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data", train=4, val=1, seed=0)
    sizes = ["--min_size", "64", "--max_size", "96", "--batch", "1", "--steps", "1", "--rounds", "1", "--workers", "0"]
    status = main(["--data", str(tmp_path / "data"), *sizes, "--dry-run", "--json", str(tmp_path / "figures.json")])
    (comparison,) = json.loads((tmp_path / "figures.json").read_text())["comparisons"]
    assert status == (0 if comparison["valid"] else 1)
    assert [timing["name"] for timing in comparison["timings"]] == ["maskserve", "torchvision"]
    loops = comparison["details"]["loops"]
    # The same untrained model, on other images of one kind.
    assert 0.1 < loops["maskserve"]["mean_loss"] / loops["torchvision"]["mean_loss"] < 10
    for figures in loops.values():
        assert figures["images_per_second"] > 0
        assert 0 < figures["share_waiting_for_data"] < 1
        assert figures["peak_memory_bytes"] > 100 * 2**20
        assert figures["peak_device_memory_bytes"] is None
    assert "images/s" in capsys.readouterr().out


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no COCO dataset"):
        main(["--data", str(tmp_path)])


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit, match="error: device cuda:1: torch finds 1 GPUs here"):
        main(["--data", str(tmp_path), "--device", "cuda:1"])


def test_a_turn_on_a_gpu_ends_when_the_gpu_has_done_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that computes when it is waited for, as a GPU does; what was queued before is nobody's time."""
    clock, queued = 100.0, 7.0

    def synchronize(device: torch.device) -> None:
        nonlocal clock, queued
        clock, queued = clock + queued, 0.0

    def step(batch: list[list[int]]) -> float:
        nonlocal queued
        queued += 2.0
        return 1.5

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12)
    monkeypatch.setattr(loops.time, "perf_counter", lambda: clock)
    turn = loops.take_turn(iter([[[1, 2]], [[3]], [[4]]]), step, 3, torch.device("cuda"))
    assert (turn.images, turn.seconds, turn.waiting, turn.loss, turn.peak_device_memory) == (4, 6.0, 0.0, 1.5, 12)
