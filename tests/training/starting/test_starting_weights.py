"""Where starting weights are read from: bundles, state_dicts, torchvision; and what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision

from model.architecture import PRESETS
from model.network.build import build_model
from model.network.weights import WEIGHTS_FILE
from model.runtime.bundles.bundle import publish_bundle
from model.runtime.bundles.manifest import NETWORK_FILE, ManifestDraft, Provenance
from model.runtime.bundles.repository import EMBEDDED, Repository
from model.runtime.preprocess import Preprocessing
from tests.model.network.weights_server import weights_server
from tests.training.starting.starting import (
    C4,
    SCORES,
    SMALL,
    THEIRS,
    architecture,
    assert_rows,
    load,
    trained,
)
from training.starting.starting_point import StartError


def test_a_bundle_gives_its_weights_and_names(tmp_path: Path) -> None:
    state = trained()
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / NETWORK_FILE).write_bytes(b"")  # not looked at: the bundle has a state_dict
    torch.save(state, staging / WEIGHTS_FILE)
    draft = ManifestDraft(
        architecture=SMALL,
        class_names=THEIRS,
        preprocessing=Preprocessing.from_architecture(SMALL),
        provenance=Provenance(dataset="none", license="none"),
    )
    bundle = publish_bundle(staging, draft, tmp_path, "small")
    model, before, _ = load(bundle.path, ("rider", "person"))
    assert_rows(model, before, state, {0: 0, 1: None, 2: 1})


def test_a_bundle_without_a_state_dict_starts_from_its_network() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    assert WEIGHTS_FILE not in bundle.manifest.files
    config = bundle.manifest.architecture.model_copy(update={"anchor_sizes": SMALL.anchor_sizes})
    _, _, report = load(bundle.path, ("Nucleus", "debris"), config=config)
    assert report.loaded == report.total
    assert report.heads[0].kept == (("background", "background"), ("Nucleus", "nucleus"))
    assert any("anchor_sizes" in note for note in report.notes)


@pytest.mark.parametrize("old_names", [False, True])
def test_a_state_dict_goes_by_position_where_the_number_of_classes_is_equal(old_names: bool, tmp_path: Path) -> None:
    """A file of an old torchvision, too: today's torchvision still loads these names."""
    theirs = trained()
    stored = {_old_name(name) if old_names else name: tensor for name, tensor in theirs.items()}
    assert (set(stored) != set(theirs)) is old_names
    build_model(SMALL).load_state_dict(dict(stored), strict=True)
    torch.save(stored, tmp_path / "weights.pth")
    model, before, report = load(tmp_path / "weights.pth", ("a", "b", "c"))
    assert_rows(model, before, theirs, {0: 0, 1: 1, 2: 2, 3: 3})
    assert report.loaded == report.total
    assert "b (from number 2)" in report.lines()[1]


def _old_name(name: str) -> str:
    name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return name.replace("mask_head.0.0.", "mask_head.mask_fcn1.")


def test_a_state_dict_of_another_number_of_classes_gives_only_the_background(tmp_path: Path) -> None:
    theirs = trained()
    torch.save(theirs, tmp_path / "weights.pth")
    model, before, report = load(tmp_path / "weights.pth", ("person",))
    assert_rows(model, before, theirs, {0: 0, 1: None})
    assert "roi_heads.box_predictor: kept background; fresh person" in report.lines()
    with pytest.raises(StartError, match="does not name its classes"):
        load(tmp_path / "weights.pth", ("person",), class_map={"person": "person"})


def test_a_published_mask_r_cnn_starts_from_faster_r_cnn_weights_of_coco(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torchvision's own download; a small network stands for the published one, whose weights are 180 MB."""
    name = "fasterrcnn_resnet50_fpn"
    published = architecture(task="boxes", num_classes=91)
    monkeypatch.setitem(PRESETS, name, published)
    theirs = trained(published)
    cityscapes = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    with weights_server(tmp_path, monkeypatch) as server:
        server.publish(name, "COCO_V1", theirs)
        model, before, report = load(f"{name}:COCO_V1", cityscapes)
    state = model.state_dict()
    coco = torchvision.models.get_model_weights(name)["COCO_V1"].meta["categories"]
    assert torch.equal(state[f"{SCORES}.weight"][3], theirs[f"{SCORES}.weight"][coco.index("car")])
    assert torch.equal(state[f"{SCORES}.weight"][2], before[f"{SCORES}.weight"][2])
    assert [head.head for head in report.heads] == ["roi_heads.box_predictor"]
    assert report.heads[0].fresh == ("rider",)
    assert "--architecture.norm_eps '0.0'" in report.lines()[1]
    assert any("roi_heads.mask_predictor, not in these weights" in line for line in report.lines())


def test_imagenet_fills_the_backbone_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision.models.resnet18(weights=None)
    with weights_server(tmp_path, monkeypatch) as server:
        server.publish("resnet18", "IMAGENET1K_V1", source.state_dict())
        for start_from in ("imagenet", "imagenet:IMAGENET1K_V1"):
            model, before, report = load(start_from, class_map={"person": "person"})
            assert torch.equal(model.backbone.body.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
            assert torch.equal(model.state_dict()[f"{SCORES}.weight"], before[f"{SCORES}.weight"])
            assert report.lines()[0].startswith("starting from ImageNet (resnet18:IMAGENET1K_V1): ")
            assert "class_map is not used" in report.lines()[1]
        model, _, report = load("imagenet", config=C4)
        for head in (model.roi_heads.box_head, model.roi_heads.mask_head):
            assert torch.equal(head.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
        assert report.unused == ()
        with pytest.raises(StartError, match=r"set --architecture.norm batch_norm or frozen"):
            load("imagenet", config=architecture(norm="group_norm"))
        with pytest.raises(ValueError, match="IMAGENET1K_V1"):
            load("imagenet:IMAGENET22K")


class _Script:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "maskrcnn_resnet99:COCO_V1", None, "nothing known.*did you mean maskrcnn_resnet50_fpn", id="unknown"
        ),
        pytest.param("maskrcnn_resnet50_fpn:COCO_V7", None, "no weights 'COCO_V7'.*COCO_V1", id="unknown weights"),
        pytest.param("{folder}/no/1", None, "no folder here", id="no such folder"),
        pytest.param("{folder}", None, "is no bundle: it has no manifest.json", id="a folder that is no bundle"),
        pytest.param("{folder}/a.pt", None, "no file .*a.pt", id="no such checkpoint"),
        pytest.param("{folder}/a.pth", None, "no file", id="no such state_dict"),
        pytest.param("{folder}/a.pt", {"format": 3}, "not a readable maskserve checkpoint", id="half a checkpoint"),
        pytest.param("{folder}/a.pth", {"format": 99}, "upgrade maskserve", id="a checkpoint of a newer release"),
        pytest.param("{folder}/a.pth", b"PK\x03\x04 cut short", "not a readable file", id="damaged"),
        pytest.param("{folder}/a.pth", {"x": _Script()}, r"holds objects.*print\)", id="code"),
        pytest.param("{folder}/a.pth", {"x": torch.zeros(1)}, "not named in the file", id="tensors of something else"),
    ],
)
def test_what_cannot_be_read_is_refused(
    name: str, content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = name.format(folder=tmp_path)
    if isinstance(content, bytes):
        Path(choice).write_bytes(content)
    elif content is not None:
        torch.save(content, choice)
    with pytest.raises(ValueError, match=message):
        load(choice)
    assert "this ran" not in capsys.readouterr().out
