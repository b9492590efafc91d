"""Ctrl-C, as a signal that this process sends itself."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
from pathlib import Path

import pytest

from model.console.running import INTERRUPTED
from tests.training.runs import LIGHT, differing, last_checkpoint
from training import train
from training.command_line import resuming
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
    common = [*LIGHT, f"--data={shapes}", "--schedule.iterations=4", "--publish=false"]
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
    arguments = [*LIGHT, f"--data={shapes}", "--schedule.iterations=4", "--publish=false", f"--output={tmp_path}/run"]
    assert interrupted_run([*arguments, "--checkpoint_every=1"], monkeypatch, signals=2) == INTERRUPTED
    assert last_checkpoint(tmp_path / "run").iteration == 2
    assert "interrupted; go on from the last checkpoint with:" in capsys.readouterr().err


def test_before_the_first_checkpoint_an_earlier_run_is_neither_lost_nor_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shapes: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [*LIGHT, f"--data={shapes}", "--schedule.iterations=3", "--publish=false", f"--output={folder}"]
    assert interrupted_run(arguments, monkeypatch, signals=2) == INTERRUPTED
    assert "interrupted before the first checkpoint; begin again with: " in capsys.readouterr().err
    assert train.main(arguments) == 0
    before = {
        name: (folder / name).read_bytes()
        for name in ("config.yaml", "metrics.csv", "checkpoints/last.pt", "checkpoints/best.pt")
    }
    anew = [*arguments, "--resume=never", "--optimizer.rate=0.001"]
    for number in (1, 2):
        assert interrupted_run([*anew, "--checkpoint_every=9"], monkeypatch, signals=2) == INTERRUPTED
        said = capsys.readouterr().err
        assert (f"the run that was here is kept in {folder / 'earlier-1'}" in said) == (number == 1)
        assert "interrupted before the first checkpoint; begin again with: " in said
        assert {name: (folder / "earlier-1" / name).read_bytes() for name in before} == before
        assert not (folder / "checkpoints").exists()
    assert train.main(anew) == 0
    assert train.main([*anew, "--optimizer.rate=0.002"]) == 0
    assert sorted(path.name for path in folder.glob("earlier-*")) == ["earlier-1", "earlier-2"]
    assert not (folder / "checkpoints" / "previous.pt").exists(), "nothing of another run to go back to"
    assert train.main([*arguments[:-1], f"--output={folder / 'earlier-1'}"]) == 0, "it goes on there"


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        pytest.param({}, "maskserve train", id="one process"),
        pytest.param({"WORLD_SIZE": "1"}, "maskserve train", id="torchrun of one process"),
        pytest.param(
            {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"},
            "torchrun --nproc_per_node=2 -m training.train",
            id="two processes",
        ),
        pytest.param(
            {
                "WORLD_SIZE": "8",
                "LOCAL_WORLD_SIZE": "4",
                "GROUP_WORLD_SIZE": "2",
                "GROUP_RANK": "1",
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": "29500",
            },
            "torchrun --nproc_per_node=4 --nnodes=2 --node_rank=1 --master_addr=10.0.0.1 --master_port=29500 "
            "-m training.train",
            id="two machines",
        ),
    ],
)
def test_what_goes_on_is_called_with_as_many_processes(
    environment: dict[str, str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = resuming(["--recipe", "nuclei", "--resume", "never", "--data", "a b"])
    assert said.endswith(f"bin/{launcher} --recipe nuclei --data 'a b'")


def test_a_loader_that_the_system_ends_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shapes: Path
) -> None:
    step = train.take_step

    def stepping(*arguments: object) -> dict[str, float]:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        return step(*arguments)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(train, "take_step", stepping)
    arguments = [*LIGHT, "--workers=1", f"--data={shapes}", "--schedule.iterations=30", "--publish=false"]
    assert train.main([*arguments, f"--output={tmp_path}/run"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: a process that loads images was ended from outside (DataLoader worker (pid")
    assert said.endswith("--workers 0 loads in the training process")
