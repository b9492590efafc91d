"""Checkpoints: atomic, safe to read, clear when broken."""

import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.planted import Planted
from training.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointError,
    TrainedOn,
    load_checkpoint,
    load_last,
    save_checkpoint,
    save_last,
)
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
        run="5f",
        trained_on=TrainedOn("cells", images=8, instances=90, train="ab", val=None),
        step_images=4,
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
    assert (loaded.run, loaded.trained_on, loaded.step_images) == (saved.run, saved.trained_on, 4)


def test_the_average_is_what_is_published() -> None:
    saved = checkpoint()
    assert saved.published_state is saved.ema
    assert replace(saved, ema=None).published_state is saved.model


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """It had the generator's state, and neither an average nor patience."""
    later = ("ema", "without_gain", "run", "trained_on", "step_images")
    fields = {name: value for name, value in vars(checkpoint()).items() if name not in later}
    torch.save({"format": 1, **fields, "rng": torch.get_rng_state()}, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert (loaded.iteration, loaded.ema, loaded.without_gain) == (7, None, 0)
    assert torch.equal(loaded.published_state["weight"], checkpoint().model["weight"])


def test_the_second_format_is_read(tmp_path: Path) -> None:
    """It did not say which run it was of, nor what that had learned from."""
    later = ("run", "trained_on", "step_images")
    fields = {name: value for name, value in vars(checkpoint()).items() if name not in later}
    torch.save({"format": 2, **fields}, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert (loaded.iteration, loaded.without_gain) == (7, 3)
    assert (loaded.run, loaded.trained_on, loaded.step_images) == (None, None, None)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond a kilobyte, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    save_last(checkpoint(), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    larger = replace(checkpoint(), model={"weight": torch.ones(100_000)})
    request.getfixturevalue("little_room")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/last.pt cannot be written .*untouched"):
        save_last(larger, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flip_a_bit_of_the_weights(path: Path) -> None:
    """Which torch would load without a word."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(6.0).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_short, id="cut short"),
        pytest.param(flip_a_bit_of_the_weights, id="a bit flipped"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.unlink(), id="gone, as a crash between two renames leaves it"),
    ],
)
def test_the_one_before_takes_a_damaged_one_s_place(
    damage: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for iteration in (3, 5, 7):
        save_last(replace(checkpoint(), iteration=iteration), tmp_path)
    newest = load_last(tmp_path)
    assert newest is not None
    assert newest.iteration == 7
    assert capsys.readouterr().err == ""

    damage(tmp_path / "last.pt")
    before = load_last(tmp_path)
    assert before is not None
    assert before.iteration == 5
    printed = capsys.readouterr().err
    assert f"warning: {tmp_path / 'last.pt'}" in printed
    assert f"{tmp_path / 'previous.pt'}, after 5 iterations" in printed
    (tmp_path / "previous.pt").write_bytes(b"damaged too")
    with pytest.raises(CheckpointError):
        load_last(tmp_path)


def test_a_newer_format_is_not_passed_over(tmp_path: Path) -> None:
    for _ in range(2):
        save_last(checkpoint(), tmp_path)
    torch.save({"format": FORMAT + 1}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="upgrade"):
        load_last(tmp_path)


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert load_last(tmp_path) is None


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


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """Nor where only a field nobody looks at holds it."""
    file = tmp_path / "planted.pt"
    save_checkpoint(checkpoint(), file)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "model": {"weight": Planted(tmp_path / "ran")}, "note": Planted(tmp_path / "ran")}, file)
    with pytest.raises(CheckpointError, match="not a readable maskserve checkpoint"):
        load_checkpoint(file)
    assert not (tmp_path / "ran").exists()
