"""The comparison of training loops, small: both really train, take turns, and are gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training.__main__ import main
from training.data.shapes import write_shapes


def test_both_loops_train_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data", train=4, val=1, seed=0)
    sizes = ["--min_size", "64", "--max_size", "96", "--batch", "1", "--steps", "1", "--rounds", "2", "--workers", "0"]
    status = main(["--data", str(tmp_path / "data"), *sizes, "--json", str(tmp_path / "figures.json")])
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
    assert "images/s" in capsys.readouterr().out


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no COCO dataset"):
        main(["--data", str(tmp_path)])
