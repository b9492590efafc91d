"""What is about to be published beside what is served."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.config import PublishIf
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.progress import Display
from training.publishing.comparison import Candidate, NotBetter, compare_with_served, served_version

NAMES = ("circle", "square", "triangle", "ring")


@pytest.fixture(scope="module")
def candidate(findable: Path) -> Candidate:
    """On images where the served version finds about half of what it is asked for."""
    val = find_splits(findable, "masks").val
    assert val is not None
    return Candidate("masks", NAMES, load_coco(*val), 100, {"box/AP": 0.0, "mask/AP": 1.0})


@pytest.mark.parametrize(
    ("change", "publish_if", "said", "kept"),
    [
        pytest.param({}, "better", "has 0.", None, id="better"),
        pytest.param({"figures": {"mask/AP": 0.0}}, "better", "points", "not better than shapes/1", id="worse"),
        pytest.param({"figures": {"mask/AP": 0.0}}, "always", "points", None, id="worse, published all the same"),
        pytest.param(
            {"class_names": ("circle", "square", "ring", "triangle")},
            "better",
            "it knows the classes circle, square, triangle, ring",
            "nobody can say",
            id="classes in another order",
        ),
        pytest.param({"class_names": ("cell",)}, "always", "not compared with shapes/1", None, id="other classes"),
        pytest.param({"task": "boxes"}, "better", "a model for masks", "nobody can say", id="another task"),
        pytest.param({"val": None, "figures": {}}, "always", "no validation split", None, id="nothing to compare on"),
    ],
)
def test_the_better_one(
    change: dict[str, Any],
    publish_if: PublishIf,
    said: str,
    kept: str | None,
    candidate: Candidate,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = replace(candidate, **change)
    if kept is None:
        compare_with_served(changed, finished_run / "models", "shapes", publish_if, Display())
    else:
        with pytest.raises(NotBetter, match=kept):
            compare_with_served(changed, finished_run / "models", "shapes", publish_if, Display())
    assert said in " ".join(capsys.readouterr().err.split())


def test_where_nothing_is_served_everything_is_better(
    candidate: Candidate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_with_served(candidate, tmp_path / "missing", "shapes", "better", Display())
    compare_with_served(candidate, tmp_path, "shapes", "better", Display())
    assert capsys.readouterr().err == ""


def test_a_damaged_version_is_not_what_is_served(finished_run: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(finished_run / "models", models)
    shutil.copytree(models / "shapes" / "1", models / "shapes" / "2")
    (models / "shapes" / "2" / "model.onnx").write_bytes(b"cut")
    served = served_version(models, "shapes")
    assert served is not None
    assert served.manifest.version == 1
