"""Recipes, flags and their errors."""

from pathlib import Path

import pytest
import torch

from model.network.build import build_model
from training.command_line import load_recipe, parse_train_config
from training.config import TrainConfig, recipe_names, recipe_path, save_config


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid_and_survive_saving(name: str, tmp_path: Path) -> None:
    config = parse_train_config(["--recipe", name])
    save_config(config, tmp_path / "config.yaml")
    assert parse_train_config(["--recipe", str(tmp_path / "config.yaml")]) == config


def test_the_paper_s_schedule() -> None:
    """Mask R-CNN sec. 3.1: 16 images, rate 0.02, divided by 10; 1x is 90k iterations with steps at 60k and 80k."""
    config = parse_train_config(["--recipe", "coco-r50-fpn-1x"])
    assert (config.batch_size, config.optimizer.rate, config.optimizer.weight_decay) == (16, 0.02, 1e-4)
    assert (config.schedule.iterations, config.schedule.milestones) == (90_000, (60_000, 80_000))
    assert (config.architecture.min_size, config.architecture.max_size) == (800, 1333)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in ("shapes", "figures")])
def test_recipes_for_datasets_describe_networks_that_can_be_built(name: str) -> None:
    with torch.device("meta"):
        build_model(parse_train_config(["--recipe", name]).architecture)


def test_no_arguments_train_the_shapes() -> None:
    config = parse_train_config([])
    assert config.name == "shapes"
    assert config.data is None


def test_flags_win_over_the_recipe() -> None:
    arguments = [
        "--recipe=nuclei",
        "--optimizer.rate",
        "0.5",
        "--architecture.fpn_channels=32",
        "--augment.scale",
        "[1, 2]",
    ]
    config = parse_train_config([*arguments, "--schedule.milestones", "3,4"])
    assert config.optimizer.rate == 0.5
    assert config.optimizer.name == "adamw"
    assert config.architecture.fpn_channels == 32
    assert config.architecture.backbone == "resnet18"
    assert config.augment.scale == (1.0, 2.0)
    assert config.schedule.milestones == (3, 4)


def test_the_environment_does_not_steer_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "elsewhere")
    monkeypatch.setenv("BATCH_SIZE", "77")
    assert parse_train_config([]).name == "shapes"
    assert parse_train_config([]).batch_size != 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--recipe", "nope"], "nuclei, nuclei-2, shapes", id="unknown recipe"),
        pytest.param(["--batch_sise", "3"], "--batch_sise", id="unknown flag"),
        pytest.param(["--batch_size", "0"], "batch_size", id="out of range"),
        pytest.param(["--augment.scale", "[2, 1]"], "rising", id="crossed range"),
        pytest.param(["--architecture.features", "c4"], "feature levels", id="a network that cannot be"),
    ],
)
def test_errors_are_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_train_config(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nmae: x\n", "nmae", id="unknown key"),
        pytest.param("optimizer:\n  lr: 3\n", r"optimizer\.lr", id="unknown nested key"),
        pytest.param("- a\n", "key: value", id="no mapping"),
        pytest.param("a: [\n", "not valid YAML", id="no YAML"),
    ],
)
def test_broken_recipes_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path)
    assert "mine.yaml" in str(caught.value)


def test_recipe_paths() -> None:
    assert recipe_path("shapes").is_file()
    assert TrainConfig(name="x").model_repository == Path("runs/x/models")
