"""Which networks are traced anew."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from model.network.exporting.structure import structure
from tests.service.harness import ROOT


def test_weights_do_not_count(helpers: Any) -> None:
    assert structure(build_model(helpers.small)) == structure(build_model(helpers.small))


def test_every_process_gives_a_network_the_same_digest(helpers: Any) -> None:
    program = (
        "from model.network.build import build_model; from model.network.exporting.structure import structure;"
        "from model.architecture import ArchitectureConfig; import sys;"
        "print(structure(build_model(ArchitectureConfig.model_validate_json(sys.argv[1]))).hex())"
    )
    command = [sys.executable, "-c", program, helpers.small.model_dump_json()]
    # Where a set's members stand depends on it.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == structure(build_model(helpers.small)).hex()


@pytest.mark.parametrize(
    "update",
    [
        {"num_classes": 6},
        {"box_head_channels": 72},
        {"detections_per_image": 41},
        {"rpn_post_nms_top_n_test": 119},
        {"rpn_nms_threshold": 0.71},
        {"box_nms_threshold": 0.51},
        {"task": "masks"},
        {"norm": "batch_norm"},
        {"channels": 4, "image_mean": (0.4,) * 4, "image_std": (0.2,) * 4},
        {"roi_pooling": "pool"},
    ],
    ids=lambda update: next(iter(update)),
)
def test_all_else_counts(helpers: Any, update: dict[str, object]) -> None:
    other: ArchitectureConfig = ArchitectureConfig.model_validate({**helpers.small.model_dump(), **update})
    assert structure(build_model(other)) != structure(build_model(helpers.small))


class Scaled(nn.Module):
    def __init__(self, scale: object) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = scale


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 2.0),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
        (torch.tensor([0], dtype=torch.int32), torch.tensor([0.0])),
        (torch.tensor(1.0), torch.tensor(3.0)),
        (torch.zeros(0), torch.zeros(0, 2)),
        ("nearest", "bilinear"),
        ({"nearest"}, {"bilinear"}),
        (nn.ReLU(), nn.SiLU()),
    ],
)
def test_values_that_are_no_weights_count(one: object, other: object) -> None:
    same = one.clone() if isinstance(one, torch.Tensor) else one
    assert structure(Scaled(one)) == structure(Scaled(same))
    assert structure(Scaled(one)) != structure(Scaled(other))


def test_what_is_not_read_does_not_count() -> None:
    one, other = [1.0], [2.0]
    assert structure(Scaled(one), [one]) == structure(Scaled(other), [other])
    assert structure(Scaled(one), [other]) != structure(Scaled(other), [one])
