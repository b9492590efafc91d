"""Several processes train as one does: two real ones, over gloo on the CPU."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.training.runs import COMMAND, LIGHT, PROGRAM, SMALL, finish, last_checkpoint, training_process
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


def started(
    *arguments: list[str], environments: Sequence[dict[str, str]] = (), program: str = PROGRAM
) -> list[BaseProcess]:
    """A process for each list of arguments, with the variables that torchrun sets, and its own of `environments`."""
    common = {"WORLD_SIZE": str(len(arguments)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(len(arguments))]
    owned = environments or [{}] * len(arguments)
    return [
        training_process(own, common | place | further, program)
        for own, place, further in zip(arguments, places, owned, strict=True)
    ]


def torchrun(arguments: list[str], count: int) -> None:
    finish(*started(*[arguments] * count))


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


def test_machines_without_a_common_folder_share_a_run(shapes: Path, tmp_path: Path) -> None:
    """Two processes with two passes of one image: a step of four images. The second has its own copy of the data, and a
    folder in which no checkpoint ever lies; both go on where the first one stopped. Then the run goes on in one."""
    here, there, copy = tmp_path / "here", tmp_path / "there", tmp_path / "copy"
    shutil.copytree(shapes, copy)
    common = [*LIGHT, *EVERYTHING, "--accumulate=2", "--batch_size=1"]
    first, second = [f"--data={shapes}", f"--output={here}"], [f"--data={copy}", f"--output={there}"]
    for iterations in (1, 2):
        flags = [*common, f"--schedule.iterations={iterations}"]
        finish(*started([*flags, *first], [*flags, *second]))
        last = last_checkpoint(here)
        assert last.iteration == iterations
        assert last.optimizer["param_groups"][0]["initial_lr"] == 0.002
        assert not there.exists()
    finish(training_process([*common, *first, "--batch_size=2"]))
    assert last_checkpoint(here).iteration == 3
    assert [iteration for iteration, _ in read_metrics(here / "metrics.csv")["loss"]] == [1, 2, 3]


def test_processes_and_starts_hold_out_the_same_images_and_the_first_alone_speaks(shapes: Path, tmp_path: Path) -> None:
    """Two processes are killed, started again, and joined by none: the split stays, and is what was learned from."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shapes, data)
    (data / "annotations" / "instances_val.json").unlink()
    file = data / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["bbox"] = [0, 0, 0, 0]
    document["images"].append({"id": 99, "file_name": "gone.png", "width": 9, "height": 9})
    file.write_text(json.dumps(document))
    common = [*LIGHT, f"--data={data}", f"--output={run}", "--val=0.3", "--on_broken=skip", "--publish=false"]

    def command(count: int, iterations: int, *flags: str) -> list[BaseProcess]:
        arguments = [*common, f"--schedule.iterations={iterations}", *flags]
        said = [{"STDERR": str(tmp_path / f"said-{rank}")} for rank in range(count)]
        return started(*[arguments] * count, environments=said, program=COMMAND)

    killed = command(2, 100_000, "--batch_size=1", "--checkpoint_every=1")
    while not (run / "checkpoints" / "last.pt").is_file():
        assert all(process.is_alive() for process in killed)
        killed[0].join(0.05)
    for process in killed:
        process.kill()
        process.join()
    kept, before = (run / "split.json").read_bytes(), last_checkpoint(run)
    assert before.trained_on is not None
    held_out = {*json.loads(kept)["val"], "gone.png"}
    assert before.trained_on.images == len(document["images"]) - len(held_out)
    for count, flags in ((2, ["--batch_size=1"]), (1, ["--batch_size=2"])):
        iterations = last_checkpoint(run).iteration + 1
        finish(*command(count, iterations, *flags))
        after = last_checkpoint(run)
        assert (after.iteration, after.trained_on) == (iterations, before.trained_on)
        assert (run / "split.json").read_bytes() == kept
        assert after.best >= 0, "it was validated"
    first, second = ((tmp_path / f"said-{rank}").read_text() for rank in range(2))
    for said in ("1 broken record", "box taken from the mask", "peak rate"):
        assert (first.count(said), second.count(said)) == (3, 0), "once at each start"


def test_machines_with_other_data_stop(shapes: Path, findable: Path, tmp_path: Path) -> None:
    """Else both would learn from what only one of them is said to have."""
    processes = started(*([*LIGHT, f"--data={data}", f"--output={tmp_path}"] for data in (shapes, findable)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_processes_with_other_flags_stop_before_anything_is_written(shapes: Path, tmp_path: Path) -> None:
    """But for what each machine may have of its own, such as its folders."""
    common = [*LIGHT, f"--data={shapes}", "--batch_size=1"]
    own = [[f"--output={tmp_path / name}", f"--schedule.iterations={n}"] for name, n in (("a", 1), ("b", 2))]
    said = [{"STDERR": str(tmp_path / f"said-{rank}")} for rank in range(2)]
    processes = started(*([*common, *flags] for flags in own), environments=said, program=COMMAND)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [2, 2]
    for rank in range(2):
        (line,) = (tmp_path / f"said-{rank}").read_text().splitlines()
        assert "schedule.iterations is 1 in process 0 and 2 in process 1: start every process" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said-0", "said-1"]


LOSES = """
import os, sys
os.environ.update(environment)
sys.stderr = open(os.environ["STDERR"], "a")
from datetime import timedelta
from training import distributed, train
distributed.STEP_PATIENCE = timedelta(seconds=3)
def lose(where):
    if os.environ["RANK"] == "1" and os.environ["WHERE"] == where:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
def step(config, state, *others, take_step=train.take_step):
    if state.iteration == 1:
        lose("second step")
    return take_step(config, state, *others)
def load(*arguments, load_training_data=train.load_training_data, **named):
    lose("data")
    return load_training_data(*arguments, **named)
train.take_step, train.load_training_data = step, load
lose("beginning")
sys.exit(train.main(arguments))
"""
"""The second of two processes loses the network, as the first sees it, or its life."""


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("data", signal.SIGKILL),
        ("beginning", signal.SIGKILL),
        ("second step", signal.SIGSTOP),
        ("second step", signal.SIGKILL),
    ],
)
def test_who_waits_for_a_process_that_is_gone_ends_in_one_line(
    where: str, number: signal.Signals, shapes: Path, tmp_path: Path
) -> None:
    common = {"WHERE": where, "SIGNAL": str(int(number))}
    said = [common | {"STDERR": str(tmp_path / f"said-{rank}")} for rank in range(2)]
    arguments = [*LIGHT, f"--data={shapes}", f"--output={tmp_path / 'run'}", "--batch_size=1", "--checkpoint_every=1"]
    first, second = started(arguments, arguments, environments=said, program=LOSES)
    first.join()
    second.kill()
    second.join()
    assert first.exitcode == 1
    *_, line = (tmp_path / "said-0").read_text().splitlines()
    assert "another process of the run is gone, or the network to it (" in line
    assert line.endswith("start all of them again, and they go on from the last checkpoint")
    assert "Traceback" not in (tmp_path / "said-0").read_text()


PATIENCES = """
import os
os.environ.update(environment)
import torch, torch.distributed
from training.distributed import join
process = join("cpu")
device = torch.device("cpu")
groups = (torch.distributed.group.WORLD, process.group)
step, between = (group._get_backend(device).options._timeout.total_seconds() for group in groups)
assert step <= 15 * 60 and between >= 3600, (step, between)
assert process.agree(process.rank) == process.agree(process.rank, within_a_step=True) == 0
process.close()
"""


def test_a_step_has_minutes_and_the_evaluation_hours() -> None:
    finish(*started([], [], program=PATIENCES))


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
        pytest.param({"WORLD_SIZE": "1"}, "cuda:98", "device cuda:98: torch finds", id="no GPU of that number"),
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


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_gpu_is_made_the_current_one(device: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown without a GPU: only the driver's part is left out."""
    chosen: list[object] = []
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert join(device).device.type == "cuda"
    assert chosen == [index]


def test_one_process_needs_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name in ("WORLD_SIZE", "RANK")]:
        monkeypatch.delenv(name)
    process = join("cpu")
    assert process.first
    assert process.agree("this") == "this"
    assert process.gather(3) == [3]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu") == process
