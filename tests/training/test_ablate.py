"""Variants on the same data and seeds, and the table of what each choice is worth."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import training.data.loading.source
from tests.training.runs import LIGHT
from training.ablate import Factor, combine, main, parse_factor
from training.data.shapes import write_shapes
from training.evaluation.ablation_table import Run, Variant, paper_says, rows, table_markdown

POOLING = Factor("architecture.roi_pooling", ("align", "pool"))
LOSS = Factor("architecture.mask_loss", ("sigmoid", "softmax"))


def names(variants: list[Variant]) -> list[str]:
    return [variant.name for variant in variants]


def test_one_change_at_a_time_or_all_of_them() -> None:
    assert names(list(combine([POOLING, LOSS], grid=False))) == ["align, sigmoid", "pool, sigmoid", "align, softmax"]
    assert names(list(combine([POOLING, LOSS], grid=True))) == [
        "align, sigmoid",
        "align, softmax",
        "pool, sigmoid",
        "pool, softmax",
    ]


def test_a_variants_flags_and_folder() -> None:
    variant = Variant((("architecture.roi_pooling", "pool"), ("augment.scale", "[0.5, 2]")))
    assert variant.flags() == ["--architecture.roi_pooling", "pool", "--augment.scale", "[0.5, 2]"]
    assert variant.folder == "roi_pooling=pool,scale=-0.5,-2-"


@pytest.mark.parametrize("text", ["architecture.roi_pooling", "architecture.roi_pooling=align", "=a,b"])
def test_a_factor_needs_two_values(text: str) -> None:
    with pytest.raises(ValueError, match="give FIELD=BASELINE,OTHER"):
        parse_factor(text)


def test_a_field_cannot_be_varied_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        list(combine([POOLING, POOLING], grid=False))


def run(pooling: str, seed: int, ap: float) -> Run:
    return Run(
        settings={"architecture.roi_pooling": pooling},
        seed=seed,
        figures={"mask/AP": ap, "mask/AP50": 0.5, "mask/AP75": 0.25},
    )


def test_differences_are_taken_seed_by_seed() -> None:
    """Both variants swing by ten points with the seed, but their difference is 2 and 4 points."""
    runs = [run("align", 0, 0.30), run("align", 1, 0.40), run("pool", 0, 0.28), run("pool", 1, 0.36)]
    baseline, other = rows(runs, "mask")
    assert baseline == ["align", "35.0 ± 7.1", "50.0 ± 0.0", "25.0 ± 0.0", "", ""]
    assert other == ["pool", "32.0 ± 5.7", "50.0 ± 0.0", "25.0 ± 0.0", "-3.0 ± 1.4", "-3.4 (R50-C4, table 2c)"]
    assert table_markdown(runs, "mask").splitlines()[0].startswith("| roi_pooling | mask AP |")


def test_the_papers_finding_turns_around_with_the_baseline() -> None:
    align, pool = {"architecture.roi_pooling": "align"}, {"architecture.roi_pooling": "pool"}
    assert paper_says(pool, align) == "+3.4 (R50-C4, table 2c)"
    assert paper_says(pool, pool) == ""
    both = {"architecture.roi_pooling": "align", "architecture.mask_loss": "softmax"}
    assert paper_says({**pool, "architecture.mask_loss": "sigmoid"}, both) == ""
    assert paper_says({"ema": "0.9"}, {"ema": "0.99"}) == ""


def test_variants_are_trained_once_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On data of the command's own, of which fewer are drawn here."""
    monkeypatch.setattr(training.data.loading.source, "write_shapes", partial(write_shapes, train=8, val=4))
    arguments = [
        *("--vary", "architecture.roi_pooling=align,pool", "--seeds", "3", "--output", str(tmp_path)),
        *(flag for flag in LIGHT if not flag.startswith("--recipe")),
        "--schedule.iterations=2",
    ]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["settings"]["architecture.roi_pooling"] for one in results["runs"]] == ["align", "pool"]
    assert all(0 <= one["figures"]["mask/AP"] <= 1 and one["seed"] == 3 for one in results["runs"])
    assert "roi_pooling" in capsys.readouterr().out
    assert not list(tmp_path.rglob("models")), "variants are compared, not published"
    checkpoint = tmp_path / "roi_pooling=pool" / "seed-3" / "checkpoints" / "last.pt"
    written = checkpoint.stat().st_mtime_ns
    assert main(arguments) == 0
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--vary", "name=a,b"], id="a name"),
        pytest.param(["--vary", "workers=0,1"], id="who loads images"),
        pytest.param(["--vary", "seed=1,2"], id="the seed, which --seeds gives"),
        pytest.param(["--vary", "data=a,b"], id="the data, which are the same for all"),
        pytest.param(["--vary", "optimizer.rate=0.01,0.010"], id="one value in two spellings"),
        pytest.param(["--vary", "amp=none,bf16", "--vary", "name=a,b"], id="one of two"),
    ],
)
def test_no_training_is_done_under_two_names(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--output", str(tmp_path)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("would be the same training twice")
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_refused_is_one_line_and_leaves_no_folder(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--vary=amp=none,bf16", f"--data={shapes}", f"--output={tmp_path}", "--classes=cirle"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("has no class cirle; did you mean circle?")
    assert not list(tmp_path.iterdir())


def test_a_wrong_value_stops_before_any_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--vary", "architecture.roi_pooling=align,warp", "--output", str(tmp_path)])
    assert exit_.value.code == 2
    assert "architecture.roi_pooling" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data", "{}/data"], "is not a folder"),
        (["--annotations", "{}/instances.json"], "is not a file"),
        (["--annotations", "{}/there.json", "--images", "{}/images"], "is not a folder"),
    ],
)
def test_data_that_are_not_there_stop_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    (tmp_path / "there.json").write_text("{}")
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as exit_:
        main(
            ["--vary", "optimizer.rate=1,2", "--output", str(output), *(flag.format(tmp_path) for flag in flags)],
        )
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
    assert not output.exists() or not list(output.iterdir())


def test_every_run_gets_the_data_that_is_named_by_files(shapes: Path, tmp_path: Path) -> None:
    arguments = [
        *("--vary", "optimizer.rate=0.01,0.02", "--seeds", "0", "--output", str(tmp_path)),
        *("--annotations", str(shapes / "annotations" / "instances_train.json"), "--images", str(shapes / "images")),
        *("--val", "0.3"),
        *(flag for flag in LIGHT if not flag.startswith("--recipe")),
        "--schedule.iterations=1",
        "--schedule.warmup=1",
    ]
    assert main(arguments) == 0
    assert not (tmp_path / "data").exists()
    splits = [folder.read_bytes() for folder in sorted(tmp_path.rglob("split.json"))]
    assert len(splits) == 2
    assert splits[0] == splits[1]
