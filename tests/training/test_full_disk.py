"""A run whose disk is full names the file and loses nothing, on a real disk of a few megabytes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import SMALL, differing_ends, finish, last_checkpoint, training_process
from training.checkpoint import load_checkpoint
from training.loop.run_log import read_metrics

OUTCOMES = "from tests.training import small_disk; from pathlib import Path; "
OUTCOMES += "small_disk.write_outcomes(Path(environment['PLACE']))"
TRAINING = "from tests.training import small_disk; from pathlib import Path; "
TRAINING += "small_disk.train_into(Path(environment['PLACE']), arguments, int(environment['SIZE']))"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    place = tmp_path_factory.mktemp("outcomes")
    finish(training_process([], {"PLACE": str(place)}, OUTCOMES))
    if (reason := place / "reason").exists():
        pytest.skip(f"mounting a disk is not permitted here: {reason.read_text()}")
    found: dict[str, dict[str, Any]] = json.loads((place / "outcomes.json").read_text())
    return found


@pytest.mark.parametrize(
    ("file", "named"),
    [
        pytest.param("last.pt", "last.pt/last.pt cannot be written", id="a checkpoint"),
        pytest.param("best.pt", "best.pt/best.pt cannot be written", id="the best one"),
        pytest.param("config.yaml", "No space left on device: .*/config.yaml'", id="the configuration"),
        pytest.param("split.json", "No space left on device: .*/split.json'", id="what is held out"),
        pytest.param("curves.png", "No space left on device: .*/curves.png'", id="the curves"),
        pytest.param("metrics.csv", "No space left on device: .*/metrics.csv'", id="figures"),
        pytest.param("tensorboard", "No space left on device: .*/events.out.tfevents", id="figures for TensorBoard"),
        pytest.param("metrics.csv, resumed", "No space left on device: .*resumed/metrics.csv'", id="figures to go on"),
    ],
)
def test_a_full_disk_names_the_file_and_loses_nothing(
    file: str, named: str, outcomes: dict[str, dict[str, Any]]
) -> None:
    outcome = outcomes[file]
    assert re.search(named, outcome["said"])
    assert outcome["whole"], "what was there before is changed"
    assert outcome["left"] == []
    assert outcome["again"]


def test_a_run_goes_on_where_the_disk_was_full(
    shapes: Path, tmp_path: Path, outcomes: dict[str, dict[str, Any]]
) -> None:
    """There is room for two checkpoints, and not for the third beside them that a run needs while it writes one."""
    arguments = [*SMALL, f"--data={shapes}", "--schedule.iterations=8", "--checkpoint_every=2", "--publish=false"]
    arguments += ["--validation.every=0", "--architecture.backbone=mobilenet_v3_small"]
    arguments += ["--architecture.anchor_sizes=[[16],[32],[64]]"]
    whole = tmp_path / "whole"
    finish(training_process([*arguments, f"--output={whole}"]))
    size = (whole / "checkpoints" / "last.pt").stat().st_size * 5 // 2
    (place := tmp_path / "small").mkdir()
    finish(training_process(arguments, {"PLACE": str(place), "SIZE": str(size)}, TRAINING))
    said = (place / "said").read_text()
    assert re.search(r"error: .*/run/checkpoints/last\.pt cannot be written \(.*\): make room", said)
    assert said.endswith("ended with [1, 0]\n")
    checkpoints = place / "full" / "checkpoints"
    assert load_checkpoint(checkpoints / "last.pt").iteration == 4
    assert load_checkpoint(checkpoints / "previous.pt").iteration == 2
    assert sorted(file.name for file in checkpoints.iterdir()) == ["last.pt", "previous.pt"]
    assert [step for step, _ in read_metrics(place / "full" / "metrics.csv")["loss"]] == [1, 2, 3, 4, 5, 6]
    assert last_checkpoint(place / "whole").iteration == 8
    assert differing_ends(place / "whole", whole) == []
