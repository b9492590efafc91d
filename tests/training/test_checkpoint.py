"""Checkpoints: atomic, safe to read, clear when broken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.checkpoint import FORMAT, Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from training.config import TrainConfig


def checkpoint() -> Checkpoint:
    return Checkpoint(
        iteration=7,
        config=TrainConfig(name="small").model_dump(mode="json"),
        class_names=("cell",),
        keypoint_names=(),
        model={"weight": torch.arange(6.0).reshape(2, 3)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scheduler={"last_epoch": 7},
        scaler={},
        best=0.25,
        ema={"weight": torch.ones(2, 3)},
        without_gain=3,
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(saved, tmp_path / "deep" / "last.pt")
    loaded = load_checkpoint(tmp_path / "deep" / "last.pt")
    assert torch.equal(loaded.model["weight"], saved.model["weight"])
    assert loaded.ema is not None
    assert torch.equal(loaded.ema["weight"], torch.ones(2, 3))
    assert loaded.without_gain == 3
    assert (loaded.iteration, loaded.best, loaded.class_names) == (7, 0.25, ("cell",))
    assert loaded.train_config() == TrainConfig(name="small")


def test_the_average_is_what_is_published() -> None:
    saved = checkpoint()
    assert saved.published_state is saved.ema
    assert replace(saved, ema=None).published_state is saved.model


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """It had the generator's state, and neither an average nor patience."""
    fields = {name: value for name, value in vars(checkpoint()).items() if name not in ("ema", "without_gain")}
    torch.save({"format": 1, **fields, "rng": torch.get_rng_state()}, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert (loaded.iteration, loaded.ema, loaded.without_gain) == (7, None, 0)
    assert torch.equal(loaded.published_state["weight"], checkpoint().model["weight"])


def test_a_failed_write_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(checkpoint(), path)
    unpicklable = replace(checkpoint(), optimizer={"hook": lambda: None})
    with pytest.raises((AttributeError, TypeError, Exception), match=r"lambda|pickle"):
        save_checkpoint(unpicklable, path)
    assert load_checkpoint(path).iteration == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no checkpoint", id="missing"),
        pytest.param(b"PK\x03\x04 cut short", "not a readable", id="truncated"),
        pytest.param({"format": FORMAT + 1}, "upgrade", id="newer format"),
        pytest.param({"weights": 1}, "not a readable", id="some other file of torch's"),
    ],
)
def test_unreadable(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
