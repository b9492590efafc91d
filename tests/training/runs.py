"""Training in a process of its own, and what the tests of this folder compare of two runs."""

from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor

from tests.training.forking import forkserver
from training.checkpoint import Checkpoint, load_checkpoint
from training.loop.run_log import read_metrics

SMALL = (
    "--recipe=shapes",
    "--threads=1",
    "--workers=0",
    "--batch_size=2",
    "--log_every=1",
    "--schedule.warmup=2",
    "--validation.samples=0",
    "--augment.crop=64",
    "--architecture.norm=frozen_batch_norm",
    "--architecture.fpn_channels=16",
    "--architecture.box_head_channels=32",
    "--architecture.mask_head_convs=[16]",
    "--architecture.mask_predictor_channels=16",
    "--architecture.rpn_pre_nms_top_n_train=100",
    "--architecture.rpn_post_nms_top_n_train=100",
    "--architecture.rpn_pre_nms_top_n_test=30",
    "--architecture.rpn_post_nms_top_n_test=30",
    "--architecture.box_batch_size_per_image=32",
    "--architecture.detections_per_image=10",
    "--architecture.min_size=64",
    "--architecture.max_size=96",
)
"""Flags of a run with iterations of a fraction of a second."""

LIGHT = (
    *SMALL,
    "--architecture.backbone=mobilenet_v3_small",
    "--architecture.anchor_sizes=[[16],[32],[64]]",
    "--architecture.norm=batch_norm",
)
"""SMALL with a tenth of the weights, where they are written and read more often than learned."""

PROGRAM = """
import os
os.environ.update(environment)
from contextlib import nullcontext
from training.loop.run_log import RunLog
from training.command_line import parse_train_config
from training.train import fit, setup, start
config, data, process, resumed = setup(parse_train_config(arguments))
state = start(config, data, process, resumed)
log = RunLog(config.run_folder, config.schedule.iterations, state.iteration, 1) if process.first else nullcontext()
with log as entered:
    fit(config, data, state, process, entered)
process.close()
"""

COMMAND = """
import os, sys
os.environ.update(environment)
sys.stderr = open(os.environ["STDERR"], "a")
from training.train import main
sys.exit(main(arguments))
"""
"""All that the command does; the environment names a file for what it says."""


def training_process(
    arguments: list[str], environment: dict[str, str] | None = None, program: str = PROGRAM
) -> BaseProcess:
    """Trains without publishing, or runs another program; started, and to be joined or killed.

    It is forked from a server that has imported everything and trained nothing: seconds sooner than a new program.
    """
    names = {"arguments": arguments, "environment": environment or {}}
    process = forkserver().Process(target=exec, args=(program, names))
    process.start()
    return process


def finish(*processes: BaseProcess) -> None:
    """Waits for their end; all of them must succeed."""
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def last_checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal to the last bit."""
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def differing_ends(folder: Path, other: Path) -> list[str]:
    """What two finished runs do not have in common to the last bit, of their last checkpoints and their losses."""
    one, two = last_checkpoint(folder), last_checkpoint(other)
    found = differing(one.model, two.model)
    if one.ema is not None and two.ema is not None:
        found += [f"average {name}" for name in differing(one.ema, two.ema)]
    for number, state in two.optimizer["state"].items():
        for name, value in state.items():
            if not torch.equal(one.optimizer["state"][number][name], value):
                found.append(f"optimizer {number} {name}")
    for name in ("iteration", "best", "without_gain", "scheduler", "scaler"):
        if getattr(one, name) != getattr(two, name):
            found.append(name)
    if (one.ema is None) != (two.ema is None):
        found.append("average")
    if read_metrics(folder / "metrics.csv")["loss"] != read_metrics(other / "metrics.csv")["loss"]:
        found.append("losses")
    return found
