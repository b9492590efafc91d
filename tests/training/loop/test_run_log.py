"""metrics.csv and what resuming does to it."""

from pathlib import Path

import pytest

from training.loop.run_log import RunLog, read_metrics


def test_rows_are_means_and_resuming_replaces_what_is_repeated(tmp_path: Path) -> None:
    with RunLog(tmp_path, iterations=6, start=0, every=2) as log:
        for iteration, loss in enumerate((4.0, 2.0, 1.0, 3.0), 1):
            log.step(iteration, {"loss": loss})
        log.validation(4, {"mask/AP": 0.5})
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["loss"] == [(2, 3.0), (4, 2.0)]
    assert curves["val/mask/AP"] == [(4, 0.5)]

    with RunLog(tmp_path, iterations=6, start=2, every=2) as log:
        for iteration, loss in ((3, 7.0), (4, 9.0), (5, 1.0), (6, 1.0)):
            log.step(iteration, {"loss": loss})
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["loss"] == [(2, 3.0), (4, 8.0), (6, 1.0)]
    assert "val/mask/AP" not in curves
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param("6,lo", id="within a name"),
        pytest.param("6,loss,0.5", id="within a number, which reads as a whole one"),
        pytest.param("6", id="within the iteration"),
        pytest.param("6,loss,0.5312\r", id="before the last character"),
    ],
)
def test_half_a_line_of_a_killed_run_is_dropped(cut: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with RunLog(tmp_path, iterations=8, start=0, every=2) as log:
        for iteration in range(1, 5):
            log.step(iteration, {"loss": float(iteration)})
    with path.open("a", newline="") as file:
        file.write(cut)
    complete = read_metrics(path)
    assert complete["loss"] == [(2, 1.5), (4, 3.5)]
    with RunLog(tmp_path, iterations=8, start=6, every=2) as log:
        for iteration in (7, 8):
            log.step(iteration, {"loss": 1.0})
    assert read_metrics(path)["loss"] == [(2, 1.5), (4, 3.5), (8, 1.0)]


@pytest.mark.parametrize("content", ["", "iterat"])
def test_a_run_killed_before_its_first_row_can_be_resumed(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    assert read_metrics(path) == {}
    with RunLog(tmp_path, iterations=1, start=0, every=1) as log:
        log.step(1, {"loss": 2.0})
    assert read_metrics(path)["loss"] == [(1, 2.0)]


def test_brackets_are_said_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, iterations=1, start=0, every=1) as log:
        log.say("classes: [red] cell")
    assert "classes: [red] cell" in capsys.readouterr().err
