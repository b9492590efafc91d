"""What a run starts from: which tensors and which parts of the heads are taken over, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.architecture import ArchitectureConfig
from model.network.first_convolution import adapted
from tests.training.starting.starting import (
    BOXES,
    HEATMAPS,
    MASKS,
    POINTS,
    SCORES,
    architecture,
    assert_rows,
    load,
    trained,
    write_checkpoint,
)
from training.starting.starting_point import StartError


def test_a_checkpoint_of_the_same_classes_is_taken_whole(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt")
    model, _, report = load(tmp_path / "last.pt")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert report.loaded == report.total == len(theirs)
    assert (report.fresh, report.unused, report.notes) == ((), (), ())


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    ema = trained(seed=5)
    write_checkpoint(tmp_path / "best.pt", ema=ema)
    model, _, _ = load(tmp_path / "best.pt")
    assert torch.equal(model.backbone.body.conv1.weight, ema["backbone.body.conv1.weight"])


def test_parts_of_the_heads_go_where_their_class_went(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt")
    model, before, report = load(
        tmp_path / "last.pt", ("MotorCycle", "rider", "traffic light", "Person", "motor-cycle")
    )
    assert_rows(model, before, theirs, {0: 0, 1: None, 2: None, 3: 2, 4: 1, 5: 3})
    state = model.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in state if not name.startswith((SCORES, BOXES, MASKS)))
    assert report.loaded == report.total
    for head in report.heads:
        assert head.fresh == ("MotorCycle", "rider")
        assert dict(head.kept)["Person"] == "person"
    text = "\n".join(report.lines())
    assert "roi_heads.box_predictor: kept background, traffic light (from Traffic_Light)" in text
    assert "fresh MotorCycle, rider" in text


def test_class_map_gives_a_class_the_parts_of_another(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt")
    model, before, _ = load(tmp_path / "last.pt", ("rider", "person", "bus"), class_map={"rider": "PERSON"})
    assert_rows(model, before, theirs, {0: 0, 1: 1, 2: 1, 3: None})


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        pytest.param({"car": "person"}, "'car', which the data has not; its classes: rider", id="new name"),
        pytest.param({"rider": "horse"}, "'horse', which .* has not; its classes: person", id="old name"),
    ],
)
def test_a_class_map_of_unknown_names_is_refused(class_map: dict[str, str], message: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt")
    with pytest.raises(StartError, match=message):
        load(tmp_path / "last.pt", ("rider",), class_map=class_map)


def test_keypoints_go_by_name(tmp_path: Path) -> None:
    config = architecture(task="keypoints", num_classes=2)
    theirs = write_checkpoint(tmp_path / "last.pt", config, ("person",), POINTS)
    names = ("right eye", "tail", "nose", "left ear")
    model, before, report = load(
        tmp_path / "last.pt", ("person",), config.model_copy(update={"num_keypoints": 4}), names
    )
    weight, bias = (model.state_dict()[f"{HEATMAPS}.{kind}"] for kind in ("weight", "bias"))
    for new, old in ((0, 2), (2, 0)):
        assert torch.equal(weight[:, new], theirs[f"{HEATMAPS}.weight"][:, old])
        assert bias[new] == theirs[f"{HEATMAPS}.bias"][old]
    for new in (1, 3):
        assert torch.equal(weight[:, new], before[f"{HEATMAPS}.weight"][:, new])
        assert bias[new] == before[f"{HEATMAPS}.bias"][new]
    [head] = [head for head in report.heads if "keypoint" in head.head]
    assert head.kept == (("right eye", "right_eye"), ("nose", "nose"))
    assert head.fresh == ("tail", "left ear")


def test_other_heads_stay_fresh_and_are_named(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt", architecture(task="boxes"))
    changed = architecture(rpn_conv_depth=2, box_head_channels=32)
    model, before, report = load(tmp_path / "last.pt", config=changed)
    state = model.state_dict()
    assert torch.equal(state["backbone.fpn.layer_blocks.0.0.weight"], theirs["backbone.fpn.layer_blocks.0.0.weight"])
    for name in (f"{MASKS}.weight", "roi_heads.box_head.fc6.weight", "rpn.head.conv.1.0.weight", f"{SCORES}.bias"):
        assert torch.equal(state[name], before[name])
    text = "\n".join(report.lines())
    assert "2 tensors of roi_heads.mask_head, not in these weights" in text
    assert "4 tensors of roi_heads.box_head, of another shape in these weights" in text
    assert "4 tensors of roi_heads.box_predictor, of another shape in these weights" in text
    assert report.heads == ()
    assert "2 tensors of rpn.head, not in these weights" in text


def test_a_box_detector_takes_what_it_has_from_a_mask_r_cnn(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt")
    model, _, report = load(tmp_path / "last.pt", config=architecture(task="boxes"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert report.unused == ("roi_heads.mask_head", "roi_heads.mask_predictor")
    assert "not used: roi_heads.mask_head, roi_heads.mask_predictor" in report.lines()


@pytest.mark.parametrize("head", ["fcn", "mlp"])
def test_masks_for_any_class_are_taken_whole_or_not_at_all(head: str, tmp_path: Path) -> None:
    agnostic = architecture(mask_classes="agnostic", mask_head=head, mask_head_channels=16)
    specific = architecture(mask_head=head, mask_head_channels=16)
    name = "roi_heads.mask_predictor." + ("mask_fcn_logits" if head == "fcn" else "mask_fc_logits")
    theirs = write_checkpoint(tmp_path / "agnostic.pt", agnostic)
    model, _, _ = load(tmp_path / "agnostic.pt", ("rider", "person"), agnostic)
    assert torch.equal(model.state_dict()[f"{name}.weight"], theirs[f"{name}.weight"])
    model, before, report = load(tmp_path / "agnostic.pt", config=specific)
    assert torch.equal(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"])
    assert any("mask_predictor" in line for line in report.fresh)
    write_checkpoint(tmp_path / "specific.pt", specific)
    model, before, report = load(tmp_path / "specific.pt", config=agnostic)
    assert torch.equal(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"])
    assert any("mask_predictor" in line for line in report.fresh)


def test_an_mlp_mask_heads_parts_go_where_their_class_went(tmp_path: Path) -> None:
    mlp = architecture(mask_head="mlp", mask_head_channels=16)
    theirs = write_checkpoint(tmp_path / "last.pt", mlp)
    model, _, _ = load(tmp_path / "last.pt", ("motor-cycle", "person"), mlp)
    weight = model.roi_heads.mask_predictor.mask_fc_logits.weight.unflatten(0, (3, 784))
    assert torch.equal(
        weight, theirs["roi_heads.mask_predictor.mask_fc_logits.weight"].unflatten(0, (4, 784))[[0, 3, 1]]
    )


def test_random_changes_nothing() -> None:
    model, before, report = load("random")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert report.lines() == ["starting from random weights"]


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        pytest.param(
            {"backbone": "resnet34"},
            {},
            "weights are of MaskRCNN resnet34, .*; the run has MaskRCNN resnet18",
            id="a deeper network, which has all names of the shallower",
        ),
        pytest.param({}, {"backbone": "resnet34"}, "weights are of MaskRCNN resnet18", id="a shallower network"),
        pytest.param(
            {"norm": "group_norm"}, {"norm": "batch_norm"}, "--architecture.norm group_norm", id="group norm's weights"
        ),
        pytest.param(
            {"norm": "batch_norm"}, {"norm": "group_norm"}, "--architecture.norm batch_norm", id="batch norm's weights"
        ),
    ],
)
def test_weights_of_another_backbone_are_refused(
    theirs: dict[str, object], ours: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "last.pt", architecture(**theirs))
    with pytest.raises(StartError, match=message):
        load(tmp_path / "last.pt", config=architecture(**ours))


def test_frozen_and_learning_batch_norm_share_their_weights(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "last.pt")
    model, _, report = load(tmp_path / "last.pt", config=architecture(norm="batch_norm"))
    assert torch.equal(model.backbone.body.bn1.running_var, theirs["backbone.body.bn1.running_var"])
    assert report.loaded == report.total


def test_settings_that_the_weights_were_trained_with_are_pointed_out(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt", architecture(norm_eps=0.0, image_mean=(0.5, 0.5, 0.5)))
    _, _, report = load(tmp_path / "last.pt")
    assert report.notes == (
        "warning: these weights were trained with norm_eps 0.0 and this run has 1e-05; to train with theirs: "
        "--architecture.norm_eps '0.0'",
        "warning: these weights were trained with image_mean [0.5, 0.5, 0.5] and this run has [0.485, 0.456, 0.406]; "
        "to train with theirs: --architecture.image_mean '[0.5, 0.5, 0.5]'",
    )


@pytest.mark.parametrize(("theirs", "ours"), [(3, 5), (3, 1), (5, 3)])
def test_the_first_convolution_is_adapted_to_the_run_s_channels(theirs: int, ours: int, tmp_path: Path) -> None:
    def of(channels: int) -> ArchitectureConfig:
        changes = {"channels": channels, "image_mean": (0.5,) * channels, "image_std": (0.25,) * channels}
        return architecture(**changes)

    weights = write_checkpoint(tmp_path / "last.pt", of(theirs))
    model, _, report = load(tmp_path / "last.pt", config=of(ours))
    state, name = model.state_dict(), "backbone.body.conv1.weight"
    assert torch.equal(state[name], adapted(weights[name], ours))
    assert torch.equal(state["backbone.body.bn1.weight"], weights["backbone.body.bn1.weight"])
    assert report.loaded == report.total
    assert report.notes == (f"the first convolution, of {theirs} channels there, is adapted to {ours}",)
