"""metrics.csv and what resuming does to it."""

from pathlib import Path

from training.run_log import RunLog, read_metrics


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
