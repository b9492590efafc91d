"""What cannot be done is one line and status 2, before anything begins, and leaves nothing behind."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

import training.data.loading.source
from model.console.command import COMMANDS
from model.runtime.bundles.repository import EMBEDDED
from training.data.shapes import write_shapes

BUNDLE = "model/embedded/nuclei/1"
REFUSED = [
    ("train --device gpu", "there is no device 'gpu'; choose auto, cpu, cuda or cuda:N"),
    ("train --device cuda:77", "device cuda:77: torch finds"),
    ("train --output {file}", "{file} is a file"),
    ("train --output {file}/x", "cannot be written: Not a directory"),
    ("train --output /proc/x", "/proc/x cannot be written"),
    ("train --output {new} --repository {file}/x", "--repository: {file}/x cannot be written"),
    ("train --output=", "output: an empty word"),
    ("train --output {new} --repository=", "repository: an empty word"),
    ("train --output {new} --data=", "data: an empty word"),
    ("train --output {new} --images {folder}", "--images {folder} goes with --annotations FILE, which is missing"),
    ("train --output {new} --classes cirle", "has no class cirle; did you mean circle?"),
    ("train --output {new}/below --rename cirle=ring", "has no class cirle; did you mean circle?"),
    ("train --output {folder} --classes cirle", "has no class cirle; did you mean circle?"),
    ("train --output {new} --name ../x", "name: '../x' is no name of a model: give small letters"),
    ("train --output {folder} --data {folder}", "--output {folder} is the dataset's folder"),
    ("train --output {new} --data {folder}", "{folder} holds no dataset of any known format: there is no file in it"),
    ("train --output {new} --recipe {file}.yaml", "no recipe '{file}.yaml'"),
    ("train --output {new} --data {new}", "{new}"),
    ("train --output {new} --data {file}", "{file}"),
    ("train --output {new} --recipe {new}.yaml", "no recipe '{new}.yaml'"),
    ("train --output {new} --start_from {new}.pt --threads 1", "start_from: no file {new}.pt"),
    ("train --output {new} --start_from maskrcnn_resnet50:COCO_V1", "did you mean maskrcnn_resnet50_fpn?"),
    ("evaluate --model model/embedded/nuclie/1 --data {new}", "did you mean model/embedded/nuclei?"),
    (f"evaluate --model {BUNDLE} --data {{new}}", "{new}"),
    (f"evaluate --model {BUNDLE} --data {{new}} --device gpu", "there is no device 'gpu'"),
    (f"evaluate --model {BUNDLE} --data {{new}} --json {{file}}/x", "--json: {file}/x cannot be written"),
    (f"evaluate --model {BUNDLE} --data {{new}} --report {{file}}", "--report: {file} is a file"),
    (f"evaluate --model {BUNDLE} --data {{new}} --max_detections -5", "-5 is too few; give 1 or more"),
    (f"evaluate --model {BUNDLE} --data {{new}} --max-detections=0", "0 is too few; give 1 or more"),
    (f"evaluate --model {BUNDLE} --data {{new}} --score_threshold 1.5", "give from 0 to 1"),
    (f"evaluate --model {BUNDLE} --data {{new}} --threads 0", "0 is too few; give 1 or more"),
    (f"evaluate --model {BUNDLE} --data {{new}} --report=", "an empty word"),
    ("export --checkpoint {new} --output {new}", "no checkpoint at {new}"),
    ("export --checkpoint {file} --output {new}", "{file} is not a readable maskserve checkpoint"),
    ("export --checkpoint {file} --output=", "an empty word"),
    ("export --checkpoint {file} --output {new} --name A", "'A' is no name of a model: give small letters"),
    ("export --torchvision maskrcnn_resnet50_fpn --output {new} --name ../x", "'../x' is no name of a model"),
    ("export --checkpoint {file} --output {new} --calibration_images 0", "0 is too few; give 1 or more"),
    ("export --checkpoint {file} --output {new} --most_ap_lost nan", "give 0 or more"),
    ("export --checkpoint {file} --output {file}", "--output: {file} is a file"),
    (
        "export --torchvision maskrcnn_resnet50_fpn --output {embedded}/nuclei",
        "--output: {embedded}/nuclei is one model's folder, not a repository",
    ),
    (
        "train --output {new} --repository {embedded}/nuclei/1",
        "--repository: {embedded}/nuclei/1 is one bundle, not a repository",
    ),
    ("export --torchvision maskrcnn_resnet50:COCO_V1 --output {new}", "did you mean maskrcnn_resnet50_fpn?"),
    (
        "ablate --vary architecture.roi_pooling=align,pool --output {new} --device cuda:77",
        "device cuda:77: torch finds",
    ),
    ("ablate --vary architecture.roi_pooling=align,align --output {new}", "names a value twice"),
    ("ablate --vary architecture.roi_pooling=align,pool --output {file}", "--output: {file} is a file"),
    ("ablate --vary architecture.roi_pooling=align,pol --output {new}", "did you mean pool?"),
    ("ablate --vary architecture.roi_pooling=align,pool --output {new} --data {new}", "{new} is not a folder"),
    ("check {new}", "{new} is not a folder"),
    ("check {folder} --json {file}/x", "--json: {file}/x cannot be written"),
    ("check {folder} --sheet {file}/x.png", "--sheet: {file}/x.png cannot be written"),
    ("check {folder} --count 0", "0 is too few; give 1 or more"),
    ("check {folder} --workers -1", "-1 is too few; give 1 or more"),
    ("check {folder} --limit -1", "-1 is too few; give 1 or more"),
    ("convert {new} {new}", "{new} is not a folder"),
    ("convert {folder}", "TARGET is missing, the new folder to write: {folder} is taken for it"),
    ("check {folder} --format yolo", "{folder} holds no dataset of the format yolo: there is no file in it"),
    ("convert {folder} {file}/x", "{file}/x cannot be written"),
]


@pytest.mark.parametrize(("command", "said"), REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of data that a command draws itself, fewer are drawn here."""
    monkeypatch.setattr(training.data.loading.source, "write_shapes", partial(write_shapes, train=8, val=4))
    places = {"new": tmp_path / "new", "file": tmp_path / "file", "folder": tmp_path / "folder", "embedded": EMBEDDED}
    places["file"].write_text("kept")
    places["folder"].mkdir()
    name, *arguments = (word.format(**places) for word in command.split())
    with pytest.raises(SystemExit) as stopped:
        import_module(COMMANDS[name].module).main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(("error: ", f"maskserve {name}: error: "))
    assert said.format(**places) in line
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert not os.listdir(places["folder"])
    assert places["file"].read_text() == "kept"
