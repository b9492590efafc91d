"""Several processes train as one does: two real ones, over gloo on the CPU."""

import os
import socket
from pathlib import Path

import pytest
import torch

from tests.training.runs import SMALL, finish, last_checkpoint, training_process
from training.distributed import join
from training.loop.run_log import read_metrics

EVERYTHING = (
    "--batch_size=2",
    "--optimizer.name=sgd",
    "--optimizer.rate=0.002",
    "--optimizer.reference_batch=4",
    "--schedule.iterations=3",
    "--schedule.warmup=0",
    "--validation.loss=true",
    "--ema=0.9",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(arguments: list[str], count: int) -> None:
    """`count` processes with the variables that torchrun sets."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    finish(
        *(training_process(arguments, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count))
    )


def test_two_processes_train_as_one(shapes: Path, tmp_path: Path) -> None:
    """Also with two passes in each: four images a step either way, with unequal numbers of positives."""
    for name, flags in {"one": ["--batch_size=4"], "two": ["--batch_size=2"]}.items():
        arguments = [*SMALL, *EVERYTHING, *flags, f"--data={shapes}", f"--output={tmp_path / name}"]
        if name == "two":
            torchrun(arguments, 2)
        else:
            finish(training_process(arguments))
    one, two = last_checkpoint(tmp_path / "one"), last_checkpoint(tmp_path / "two")
    assert one.optimizer["param_groups"][0]["initial_lr"] == two.optimizer["param_groups"][0]["initial_lr"] == 0.002
    assert one.ema is not None
    assert two.ema is not None
    for first, second in ((one.model, two.model), (one.ema, two.ema)):
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-6, msg=name)
    curves, same = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    for name in ("loss", "loss_mask", "loss_classifier", "val/loss", "val/loss_mask", "val/box/AP"):
        assert [value for _, value in same[name]] == pytest.approx([value for _, value in curves[name]], rel=1e-4), name
    assert one.best == pytest.approx(two.best, abs=1e-6)


def test_processes_and_passes_share_a_step(shapes: Path, tmp_path: Path) -> None:
    """Two processes with two passes of one image: a step of four images, and a run that goes on in one process."""
    arguments = [*SMALL, *EVERYTHING, f"--data={shapes}", f"--output={tmp_path}", "--accumulate=2", "--batch_size=1"]
    torchrun([*arguments, "--schedule.iterations=2"], 2)
    first = last_checkpoint(tmp_path)
    assert first.iteration == 2
    assert first.optimizer["param_groups"][0]["initial_lr"] == 0.002
    finish(training_process([*arguments, "--batch_size=2"]))
    assert last_checkpoint(tmp_path).iteration == 3
    assert [iteration for iteration, _ in read_metrics(tmp_path / "metrics.csv")["loss"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("variables", "device", "message"),
    [
        pytest.param(
            {"WORLD_SIZE": "2"}, "cpu", r"RANK, LOCAL_RANK.*torchrun --nproc_per_node=2", id="not by torchrun"
        ),
        pytest.param({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE is 'two'", id="no number"),
        pytest.param({"WORLD_SIZE": "0"}, "cpu", "WORLD_SIZE is '0'", id="no process"),
        pytest.param({"WORLD_SIZE": "2", "RANK": "2"}, "cpu", "ranks are 0 to 1", id="one rank too high"),
        pytest.param({"WORLD_SIZE": "2", "RANK": "1"}, "cuda:0", "leave out its number", id="all on one GPU"),
        pytest.param({"WORLD_SIZE": "99", "LOCAL_RANK": "98"}, "cuda", "a GPU of its own", id="fewer GPUs"),
    ],
)
def test_unsuitable_variables(
    variables: dict[str, str], device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (variables if variables == {"WORLD_SIZE": "2"} else others | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        join(device)


def test_one_process_needs_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name in ("WORLD_SIZE", "RANK")]:
        monkeypatch.delenv(name)
    process = join("cpu")
    assert process.first
    assert process.agree("this") == "this"
    assert process.gather(3) == [3]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu") == process
