"""Files of other programs: a network's tensors are found in whatever they are wrapped, and no code of a file is run."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.starting.starting import SMALL, THEIRS, architecture, load, trained, write_checkpoint
from training.starting.starting_point import StartError
from training.starting.state_files import StateFileError, network_state, read_file

NETWORK = {"backbone.body.conv1.weight": torch.ones(2), "roi_heads.box_predictor.cls_score.bias": torch.zeros(3)}
ARGS = argparse.Namespace(lr=0.02, output=Path("here"), sizes=[1, 2])
AVERAGE = {name: tensor + 5 for name, tensor in NETWORK.items()}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.02, "params": [0]}]}


def behind(prefix: str, state: dict[str, Tensor] = NETWORK) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("zipped", [True, False], ids=["today's files", "files of torch before 1.6"])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        pytest.param(NETWORK, "", id="alone"),
        pytest.param(OrderedDict(NETWORK), "", id="as state_dict() gives it"),
        pytest.param(behind("module."), "", id="of DistributedDataParallel"),
        pytest.param(behind("_orig_mod."), "", id="of torch.compile"),
        pytest.param(behind("module._orig_mod."), "", id="of both"),
        pytest.param({"model": NETWORK, "optimizer": OPTIMIZER, "args": ARGS, "epoch": 3}, "model", id="torchvision"),
        pytest.param(
            {
                "model": NETWORK,
                "model_ema": {**behind("module.", AVERAGE), "n_averaged": torch.tensor(9)},
                "args": ARGS,
            },
            "model",
            id="torchvision, with an average beside it",
        ),
        pytest.param({"model_ema": behind("module."), "scaler": {}}, "model_ema", id="an average alone"),
        pytest.param(
            {"state_dict": behind("model."), "hyper_parameters": {"lr": 1}, "pytorch-lightning_version": "2"},
            "state_dict",
            id="Lightning",
        ),
        pytest.param(
            {"state_dict": {**behind("model."), "criterion.weight": torch.ones(1)}},
            "state_dict",
            id="Lightning, whose module has more than the network",
        ),
        pytest.param(
            {"model_state_dict": NETWORK, "optimizer_state_dict": OPTIMIZER, "loss": torch.tensor(0.5)},
            "model_state_dict",
            id="PyTorch's tutorial",
        ),
        pytest.param({"run": {"state": {"net": behind("module.")}}}, "run.state.net", id="deep inside"),
        pytest.param({"detector": NETWORK, "history": [1, 2]}, "detector", id="under a name of its own"),
        pytest.param({"model": NETWORK, "best": np.float64(0.4), "seen": np.float32(1)}, "model", id="NumPy's figures"),
        pytest.param({**NETWORK, "epoch": 3}, "", id="a number among the tensors"),
    ],
)
def test_the_network_is_found(content: object, place: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found, state = network_state(read_file(file), file)
    assert found == place
    assert state.keys() == NETWORK.keys()
    assert all(torch.equal(state[name], NETWORK[name]) for name in NETWORK)


class _Config:
    """Stands for the classes of other people's code."""


@pytest.mark.parametrize("zipped", [True, False], ids=["today's files", "files of torch before 1.6"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(nn.Linear(1, 1), r"objects.*torch\.nn\.modules\.linear\.Linear.*state_dict\(\)", id="a module"),
        pytest.param({"model": NETWORK, "config": _Config()}, r"objects.*_Config", id="an object of somebody's"),
        pytest.param({"model": NETWORK, "log": defaultdict(list)}, r"objects.*collections.defaultdict", id="a factory"),
        pytest.param({"model": {}, "epoch": 3}, "holds no network: it has model, epoch", id="no tensors"),
        pytest.param({}, "it is empty", id="empty"),
        pytest.param(torch.zeros(2, 3), r"it is one tensor, \[2, 3\]", id="one tensor"),
        pytest.param([NETWORK], "it is a list", id="a list"),
        pytest.param({"a": NETWORK, "b": AVERAGE}, r"several networks \(a, b\)", id="two of a kind"),
        pytest.param(
            behind("teacher.") | behind("student."), "begin with 'teacher.' and 'student.'", id="two in one state"
        ),
    ],
)
def test_what_it_is_instead_is_said_on_one_line(content: object, message: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(StateFileError, match=message) as refused:
        network_state(read_file(file), file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


def test_a_changed_byte_is_damage(tmp_path: Path) -> None:
    """torch would load it: it does not look at the checksums that it writes."""
    file = tmp_path / "a.pth"
    torch.save({"model": {"backbone.weight": torch.full((64,), 7.0)}}, file)
    content = file.read_bytes()
    at = content.index(torch.full((4,), 7.0).numpy().tobytes())
    file.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    with pytest.raises(StateFileError, match="is damaged"):
        read_file(file)


@pytest.mark.parametrize("name", ["model_25.pth", "checkpoint.pt", "last.ckpt", "checkpoint.pth.tar", "weights"])
def test_a_run_starts_from_another_program_s_checkpoint(name: str, tmp_path: Path) -> None:
    """Whatever the file is called; the log says what was taken from it."""
    theirs = trained()
    torch.save({"model": behind("module.", theirs), "optimizer": OPTIMIZER, "args": ARGS}, tmp_path / name)
    model, _, report = load(tmp_path / name, ("a", "b", "c"))
    assert report.loaded == report.total
    assert report.lines()[0].startswith(f"starting from the state_dict 'model' in {tmp_path / name}: ")
    assert torch.equal(model.state_dict()["rpn.head.cls_logits.bias"], theirs["rpn.head.cls_logits.bias"])


@pytest.mark.parametrize("name", ["last.pt", "renamed.pth"])
def test_a_checkpoint_of_ours_names_its_classes_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / name)
    _, _, report = load(tmp_path / name, ("person",))
    assert report.heads[0].kept == (("background", "background"), ("person", THEIRS[0]))


def test_another_network_is_named(tmp_path: Path) -> None:
    """mmdetection's names have a detector's beginning."""
    state: dict[str, Any] = {"backbone.layer1.0.conv1.weight": torch.ones(1), "rpn_head.conv.weight": torch.ones(1)}
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(StartError, match="is of another network"):
        load(tmp_path / "a.pth", config=architecture(backbone=SMALL.backbone))
