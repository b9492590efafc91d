"""Recipes, flags and their errors."""

import shlex
from functools import reduce
from pathlib import Path

import pytest
import torch
from rich.table import Table

from model.network.build import build_model
from model.runtime.images.values.intensity import Intensity
from training.command_line import load_recipe, parse_train_config, unbroken_console
from training.config import TrainConfig, recipe_names, recipe_path, save_config
from training.manual import as_argument, example_of, flags


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


def test_how_values_become_8_bits_is_part_of_a_run(tmp_path: Path) -> None:
    config = parse_train_config(["--intensity.mode", "percentile", "--intensity.high", "99.5"])
    assert config.intensity == Intensity(mode="percentile", high=99.5)
    save_config(config, tmp_path / "config.yaml")
    assert parse_train_config(["--recipe", str(tmp_path / "config.yaml")]).intensity == config.intensity
    assert parse_train_config([]).intensity == Intensity()


def test_the_environment_does_not_steer_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "elsewhere")
    monkeypatch.setenv("BATCH_SIZE", "77")
    assert parse_train_config([]).name == "shapes"
    assert parse_train_config([]).batch_size != 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--recipe", "nope"], "nuclei, nuclei-2, photos", id="unknown recipe"),
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
        pytest.param("a: [\n", "not valid YAML in line 2: ", id="no YAML"),
        pytest.param("name: a\ndata: b: c\n", "not valid YAML in line 2: mapping values", id="two colons"),
        pytest.param("name: a\n\tdata: b\n", "not valid YAML in line 2: ", id="a tab"),
        pytest.param("name: a\x07\n", "not valid YAML: ", id="a control character"),
        pytest.param("name: {\n  a: 1\nb: [1\n", "not valid YAML in line ", id="brackets that nothing closes"),
    ],
)
def test_broken_recipes_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xff\n")
    with pytest.raises(ValueError, match=r"mine\.yaml is not valid YAML: ") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_recipe_paths() -> None:
    assert recipe_path("shapes").is_file()
    assert TrainConfig(name="x").model_repository == Path("runs/x/models")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--iterations", "3"], "no flag --iterations; did you mean --schedule.iterations?", id="a flag"),
        pytest.param(["--recipe", "nucley"], "no recipe 'nucley'; did you mean nuclei?", id="a recipe"),
        pytest.param(["--amp", "bf15"], "amp: there is no 'bf15'; did you mean bf16?", id="a word"),
        pytest.param(["--architecture.backbone=vgg"], "there is no 'vgg'; input should be 'resnet18'", id="far off"),
        pytest.param(["--batch-size"], "--batch_size: expected one argument", id="no value"),
        pytest.param(["--augment.scale", "3"], "(for example 0.5,2.0)", id="one value of two"),
    ],
)
def test_a_wrong_word_is_one_line_with_the_nearest_right_one(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_train_config(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_flags_are_understood_with_either_sign() -> None:
    config = parse_train_config(["--batch-size=3", "--architecture.fpn-channels", "32", "--on-broken", "skip"])
    assert (config.batch_size, config.architecture.fpn_channels, config.on_broken) == (3, 32, "skip")


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_none_is_none_as_a_value_of_a_flag(word: str) -> None:
    assert parse_train_config(["--recipe=nuclei", "--augment.crop", word, "--augment.scale=1,1"]).augment.crop is None
    assert parse_train_config([f"--optimizer.clip_norm={word}"]).optimizer.clip_norm is None
    twice = ["--optimizer.clip_norm=1", f"--optimizer.clip_norm={word}", "--threads", word, "--threads", "2"]
    config = parse_train_config(twice)
    assert (config.optimizer.clip_norm, config.threads) == (None, 2), "the last one wins"


def test_the_manual_shows_what_the_recipe_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_train_config(["--recipe", "coco-r50-fpn-1x", "--help"])
    assert stopped.value.code == 0
    manual = " ".join(capsys.readouterr().out.split())
    assert "--batch_size NUMBER images a forward pass, of each process (default: 16)" in manual
    assert "--schedule.milestones NUMBER,... iterations at which the rate falls (step) (default: 60000,80000" in manual


@pytest.mark.parametrize("recipe", ["shapes", "nuclei", "coco-r50-c4"])
def test_every_default_is_understood_as_the_manual_writes_it(recipe: str) -> None:
    config = parse_train_config(["--recipe", recipe])
    arguments = []
    for name, _ in flags(TrainConfig):
        (value,) = shlex.split(as_argument(reduce(getattr, name.split("."), config)))
        arguments.append(f"--{name}={value}")
    assert parse_train_config(["--recipe", recipe, *arguments]) == config


@pytest.mark.parametrize("name", [name for name, field in flags(TrainConfig) if example_of(field) is not None])
def test_every_example_is_understood(name: str) -> None:
    example = example_of(dict(flags(TrainConfig))[name])
    assert example, "it shows something"
    # what windows and whole images need differs
    crop = ["--recipe=nuclei", "--augment.scale=1,1"][: 1 if name == "augment.scale" else 2]
    others = crop if name in ("augment.scale", "augment.jitter") else ["--architecture.max_size=1333"]
    config = parse_train_config([*others, f"--{name}", *shlex.split(as_argument(example))])
    assert reduce(getattr, name.split("."), config) == example


def test_fields_that_take_several_values_have_an_example() -> None:
    several = {name for name, field in flags(TrainConfig) if "tuple" in str(field.annotation)}
    assert several <= {name for name, field in flags(TrainConfig) if example_of(field) is not None}


def test_no_name_is_broken_where_nobody_looks_at_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["tree trunk or large branch of any kind " * 5 + str(number) for number in range(2)]
    table = Table("class", "objects")
    for name in names:
        table.add_row(name, "1")
    unbroken_console().print(table)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
