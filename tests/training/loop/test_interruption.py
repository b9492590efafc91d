"""Ctrl-C, as a signal that this process sends itself."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from model.console.arguments import INTERRUPTED
from tests.training.runs import SMALL, differing, last_checkpoint
from training import train
from training.loop.interruption import Interruption


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_noted_and_the_second_ends_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption(alone=True) as interruption:
        assert not interruption.requested
        ctrl_c()
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err.count("interrupted") == 1


def test_of_several_processes_each_may_get_it_twice() -> None:
    with Interruption(alone=False) as interruption:
        ctrl_c()
        ctrl_c()
        assert interruption.requested


def interrupted_run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, signals: int) -> int:
    """Trains, and gets Ctrl-C so many times in the middle of the third iteration."""
    step = train.take_step

    def stepping(config: object, state: train.State, *others: object) -> dict[str, float]:
        if state.iteration == 2:
            for _ in range(signals):
                ctrl_c()
        return step(config, state, *others)  # type: ignore[arg-type]  # handed on as they are

    with monkeypatch.context() as patched:
        patched.setattr(train, "take_step", stepping)
        return train.main(arguments)


def test_a_run_keeps_its_iterations_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shapes: Path
) -> None:
    common = [*SMALL, f"--data={shapes}", "--schedule.iterations=4", "--publish=false"]
    folder = tmp_path / "with space"
    arguments = [*common, "--output", str(folder), "--resume=never"]
    assert interrupted_run(arguments, monkeypatch, signals=1) == INTERRUPTED
    assert last_checkpoint(folder).iteration == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "stopped after iteration 3; go on with: " in said
    assert f"maskserve train {shlex.join([*common, '--output', str(folder)])}" in said, "without --resume never"
    assert train.main([*common, "--output", str(folder)]) == 0
    assert train.main([*common, "--output", str(tmp_path / "whole")]) == 0
    assert not differing(last_checkpoint(folder).model, last_checkpoint(tmp_path / "whole").model)


def test_a_second_one_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shapes: Path
) -> None:
    arguments = [*SMALL, f"--data={shapes}", "--schedule.iterations=4", "--publish=false", f"--output={tmp_path}/run"]
    assert interrupted_run([*arguments, "--checkpoint_every=1"], monkeypatch, signals=2) == INTERRUPTED
    assert last_checkpoint(tmp_path / "run").iteration == 2
    assert "interrupted; go on from the last checkpoint with:" in capsys.readouterr().err
