"""Which recipe and settings the check suggests: a table of datasets, and that the command trains as it is printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from model.architecture import Task
from tests.training.data.coco_folder import Box, write_split
from training.command_line import parse_train_config
from training.data.annotations.dataset import Dataset
from training.data.check import main
from training.data.checking.fingerprints import Fingerprint
from training.data.checking.statistics import gather_objects
from training.data.checking.suggestion import Suggestion, suggest
from training.data.figures import write_figures
from training.data.formats.coco.reader import load_coco
from training.evaluation.evaluation import KINDS
from training.train import main as train


class Data(NamedTuple):
    """`images` pictures of `size` (width, height), each with squares of these `sides`, one beside the other."""

    images: int = 100
    size: tuple[int, int] = (1600, 1200)
    sides: Sequence[int] = (100, 400)
    mode: str = "RGB"
    keypoints: Sequence[str] = ()

    def written(self, folder: Path) -> Dataset:
        """Without the pictures, which the suggestion does not look at."""
        width, height = self.size
        images = [
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
            for number in range(self.images)
        ]
        annotations: list[dict[str, Any]] = []
        for image in range(self.images):
            x = y = 0
            for side in self.sides:
                if x + side > width:
                    x, y = 0, y + max(self.sides)
                box = {"bbox": [x, y, side, side], "segmentation": [[x, y, x + side, y, x + side, y + side]]}
                points = {"keypoints": [x + 1, y + 1, 2] * len(self.keypoints)} if self.keypoints else {}
                annotations.append({"id": len(annotations), "image_id": image, "category_id": 1, **box, **points})
                x += side
        category = {"id": 1, "name": "cat"} | ({"keypoints": list(self.keypoints)} if self.keypoints else {})
        file = folder / "data.json"
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
        return load_coco(file, folder)

    def suggestion(self, folder: Path, task: Task = "masks") -> Suggestion:
        data = self.written(folder)
        objects = gather_objects(data)
        bits, thumbnail = np.zeros(32, np.uint8), np.zeros((32, 32), np.uint8)
        prints = [Fingerprint("", self.size, self.mode, 1, b"", bits, thumbnail, "uint8", None)] * self.images
        found = suggest({"train": data}, {"train": objects}, prints, task)
        assert found is not None
        return found


@pytest.mark.parametrize(
    ("data", "task", "expected"),
    [
        pytest.param(Data(sides=(400,)), "masks", ["photos", 512, 1000], id="large objects: the smallest input"),
        pytest.param(Data(sides=(75,)), "masks", ["photos", 768, 1000], id="as large as the objects need"),
        pytest.param(Data(sides=(40,)), "masks", ["photos", 1024, 1000], id="no larger than photographs are seen"),
        pytest.param(Data(size=(640, 480), sides=(40,)), "masks", ["photos", 512, 1000], id="small pictures"),
        pytest.param(Data(size=(200, 150), sides=(10,)), "masks", ["photos", 640, 1000], id="they may be enlarged"),
        pytest.param(Data(size=(480, 4000), sides=(400,)), "masks", ["photos", 512, 1000], id="of any shape"),
        pytest.param(Data(images=10), "masks", ["photos", 512, 1000], id="few images: at least 4,000 samples"),
        pytest.param(Data(images=2_000), "masks", ["photos", 512, 6000], id="many images: each 12 times"),
        pytest.param(Data(images=4_000, sides=(400,)), "masks", ["photos", 512, 12_000], id="more of them"),
        pytest.param(
            Data(size=(4000, 3000), sides=(30,)), "masks", ["photos", "windows", 1000], id="small ones in large"
        ),
        pytest.param(
            Data(size=(4000, 3000), sides=(30, 900)), "masks", ["photos", 1024, 1000], id="small and large: no windows"
        ),
        pytest.param(Data(sides=(400,)), "boxes", ["photos", 512, 1000], id="boxes"),
        pytest.param(Data(sides=(30,) * 30), "masks", ["nuclei", "own scale", 2500], id="many small ones: cells"),
        pytest.param(Data(sides=(30,) * 3, mode="L"), "masks", ["nuclei", "own scale", 2500], id="gray"),
        pytest.param(Data(sides=(30,) * 3, mode="I;16"), "boxes", ["nuclei", "own scale", 2500], id="deep"),
        pytest.param(Data(sides=(400,), mode="L"), "masks", ["photos", 512, 1000], id="gray, of large objects"),
        pytest.param(Data(images=600, sides=(30,) * 30), "masks", ["nuclei", "own scale", 11_000], id="many cells"),
        pytest.param(
            Data(sides=(30,) * 30, keypoints=("left_a", "right_a")),
            "keypoints",
            ["photos", 1024, 1000],
            id="keypoints are not turned around",
        ),
    ],
)
def test_the_recipe_its_input_and_its_length(data: Data, task: Task, expected: list[object], tmp_path: Path) -> None:
    suggestion = data.suggestion(tmp_path, task)
    config = suggestion.config
    recipe, view, iterations = expected
    assert suggestion.flags[:2] == ("--recipe", recipe)
    assert config.architecture.task == task
    assert config.schedule.iterations == iterations
    assert config.schedule.warmup < config.schedule.iterations / 4
    if isinstance(view, int):
        assert {config.architecture.min_size, config.architecture.max_size, config.augment.crop} == {view}
    else:
        assert not config.architecture.allow_downscale
        assert config.augment.jitter is None
    assert (suggestion.alternative is None) == (recipe == "nuclei")
    if suggestion.alternative is not None:
        scratch = parse_train_config(suggestion.alternative)
        assert (scratch.start_from, scratch.architecture.norm) == ("random", "batch_norm")
        assert scratch.architecture.task == task
        assert scratch.schedule.iterations * scratch.batch_size >= max(10_000, 72 * data.images)


def test_keypoints_start_from_keypoints_and_are_mirrored_where_their_sides_have_names(tmp_path: Path) -> None:
    told = Data(keypoints=("left_eye", "right_eye")).suggestion(tmp_path, "keypoints").config
    assert told.start_from == "keypointrcnn_resnet50_fpn:COCO_V1"
    assert told.augment.horizontal_flip == 0.5
    for task in ("keypoints", "masks_keypoints"):
        assert Data(keypoints=("a", "b")).suggestion(tmp_path, task).config.augment.horizontal_flip == 0
    assert Data(keypoints=("middle",)).suggestion(tmp_path, "keypoints").config.augment.horizontal_flip == 0.5


def test_crowds_and_sizes_have_room(tmp_path: Path) -> None:
    full = Data(images=10, sides=(30,) * 420).suggestion(tmp_path).config
    assert full.architecture.detections_per_image == full.validation.max_detections == 600
    tiny = Data(sides=(5,) * 30).suggestion(tmp_path)
    assert min(tiny.config.architecture.anchor_sizes) < (8,)
    assert any("anchors" in reason for reason in tiny.reasons)
    assert "--architecture.anchor_sizes" not in Data(sides=(100,)).suggestion(tmp_path).flags


def test_objects_that_overlap_are_kept_apart(tmp_path: Path) -> None:
    close = [Box((0, 0, 100, 100)), Box((25, 0, 100, 100))]  # box IoU 0.6
    data = write_split(tmp_path, "train", [(200, 200)] * 3, [close] * 3)
    found = suggest({"train": data}, {"train": gather_objects(data)}, [], "masks")
    assert found is not None
    assert found.config.architecture.box_nms_threshold == 0.6


def test_nothing_is_suggested_where_nothing_can_be_trained_on(tmp_path: Path) -> None:
    data = write_split(tmp_path, "train", [(90, 60)], [[]])
    objects = gather_objects(data)
    assert suggest({"train": data}, {"train": objects}, [], "masks") is None
    assert suggest({"test": data}, {"test": objects}, [], "masks") is None


def commands(out: str) -> list[list[str]]:
    """The words behind `maskserve train` in what the check prints."""
    return [shlex.split(line.partition(" train ")[2]) for line in out.splitlines() if " train --recipe " in line]


@pytest.mark.parametrize("named", ["folder", "files"])
def test_the_command_names_the_data_as_the_check_was_given_it(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my data"  # a shell needs quotes
    write_split(folder, "train", [(90, 60)] * 4, [[Box((5, 5, 20, 20))]] * 4)
    (folder / "images" / "train_4.png").unlink()
    given = [str(folder)]
    if named == "files":
        given = ["--annotations", str(folder / "annotations" / "instances_train.json"), "--images", f"{folder}/images"]
    assert main(given) == 1
    out = capsys.readouterr().out
    first, second = commands(out)
    assert out.rstrip().endswith(shlex.join(second[-2:])), "it stands at the end"
    for words in (first, second):
        config = parse_train_config(words)
        assert (config.val, config.on_broken) == (0.2, "skip")
        assert (config.data, config.images) == ((folder, None) if named == "folder" else (None, folder / "images"))
    assert main([*given, "--val", "0.5", "--seed", "3"]) == 1
    config = parse_train_config(commands(capsys.readouterr().out)[0])
    assert (config.val, config.seed) == (0.5, 3)


@pytest.mark.parametrize("task", ["boxes", "masks", "masks_keypoints"])
def test_the_command_trains_as_it_is_printed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A smaller network and a single step aside."""
    write_figures(tmp_path / "data", train=6, val=2, size=96)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--task", task]) == 0
    _, scratch = commands(capsys.readouterr().out)
    small = "--schedule.iterations 1 --validation.every 1 --batch_size 2 --architecture.fpn_channels 16 --workers 0"
    small += " --architecture.box_head_channels 16 --architecture.mask_head_convs 16 --threads 1 --publish false"
    small += " --architecture.keypoint_head_convs 16 --architecture.min_size 96 --architecture.max_size 96"
    assert train([*scratch, *small.split(), "--augment.crop", "96"]) == 0
    assert f"{KINDS[task][0]}/AP" in (tmp_path / "runs" / "photos" / "metrics.csv").read_text()
