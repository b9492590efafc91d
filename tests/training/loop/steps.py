"""A first optimizer step with small networks, as several tests of this folder take it."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from model.network.build import Detector
from tests.training.runs import SMALL
from training.command_line import parse_train_config
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.loading.loader import Batch
from training.data.loading.source import TrainingData
from training.distributed import Process
from training.loop.state import State, start
from training.train import batches

HERE = Process(torch.device("cpu"))


def maker(data: Dataset, output: Path, *common: str) -> Callable[..., tuple[TrainConfig, State]]:
    """Makes a configuration and its fresh state: the same weights every time."""

    def build(*flags: str) -> tuple[TrainConfig, State]:
        config = parse_train_config([*common, *SMALL[1:], "--optimizer.name=sgd", *flags, f"--output={output}"])
        torch.manual_seed(0)
        return config, start(config, TrainingData(data, None), HERE)

    return build


def step_batches(config: TrainConfig, data: Dataset) -> list[Batch]:
    """The passes of the first step."""
    return list(batches(config, data, 0, HERE))[: config.accumulate]


def gradients(model: Detector) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def compare(whole: dict[str, Tensor], parts: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each gradient, relative to its own largest value."""
    assert whole.keys() == parts.keys()
    return {
        name: float((whole[name] - parts[name]).abs().max() / whole[name].abs().max().clamp(min=1e-12))
        for name in whole
    }
