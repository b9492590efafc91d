"""What a run starts from: which tensors and which parts of the heads are taken over, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import Detector, build_model
from model.network.weights import WEIGHTS_FILE
from model.runtime.bundle import publish_bundle
from model.runtime.manifest import NETWORK_FILE, ManifestDraft, Provenance
from model.runtime.preprocess import Preprocessing
from model.runtime.repository import EMBEDDED, Repository
from tests.model.network.weights_server import weights_server
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import TrainConfig
from training.starting_point import StartError, StartReport, load_starting_point

SMALL = ArchitectureConfig(
    backbone="resnet18",
    num_classes=4,
    num_keypoints=3,
    fpn_channels=16,
    box_head_channels=16,
    box_head_convs=(16,),
    mask_head_convs=(16,),
    mask_predictor_channels=16,
    keypoint_head_convs=(16,),
)
C4 = SMALL.model_copy(update={"features": "c4", "anchor_sizes": ((32, 64),)})
THEIRS = ("person", "Traffic_Light", "motor cycle")
POINTS = ("nose", "left_eye", "right_eye")
SCORES = "roi_heads.box_predictor.cls_score"
BOXES = "roi_heads.box_predictor.bbox_pred"
MASKS = "roi_heads.mask_predictor.mask_fcn_logits"
HEATMAPS = "roi_heads.keypoint_predictor.kps_score_lowres"


def architecture(**changes: object) -> ArchitectureConfig:
    return ArchitectureConfig.model_validate({**SMALL.model_dump(), **changes})


def trained(config: ArchitectureConfig = SMALL, seed: int = 1) -> dict[str, Tensor]:
    """A network whose tensors are all different from a fresh one's."""
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in build_model(config).state_dict().items()
    }


def write_checkpoint(
    path: Path,
    config: ArchitectureConfig = SMALL,
    class_names: tuple[str, ...] = THEIRS,
    keypoint_names: tuple[str, ...] = (),
    ema: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """A checkpoint of ours at `path`; returns its weights."""
    state = trained(config)
    save_checkpoint(
        Checkpoint(
            iteration=7,
            config=TrainConfig(architecture=config).model_dump(mode="json"),
            class_names=class_names,
            keypoint_names=keypoint_names,
            model=state,
            optimizer={},
            scheduler={},
            scaler={},
            best=0.5,
            ema=ema,
        ),
        path,
    )
    return state


def load(
    start_from: Path | str,
    class_names: tuple[str, ...] = THEIRS,
    config: ArchitectureConfig = SMALL,
    keypoint_names: tuple[str, ...] = (),
    class_map: Mapping[str, str] | None = None,
) -> tuple[Detector, dict[str, Tensor], StartReport]:
    """The started model, what it was before, and the report."""
    config = config.model_copy(update={"num_classes": len(class_names) + 1})
    model = build_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = TrainConfig(start_from=str(start_from), class_map=dict(class_map or {}), architecture=config)
    return model, before, load_starting_point(model, run, class_names, keypoint_names)


def assert_rows(
    model: Detector, before: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rows: Mapping[int, int | None]
) -> None:
    """`rows`: label of the run -> label of the weights that its parts came from, None: it stayed as it was."""
    state = model.state_dict()
    for layer, size in ((SCORES, 1), (BOXES, 4), (MASKS, 1)):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            for new, old in rows.items():
                source = before[name] if old is None else theirs[name]
                row = new if old is None else old
                actual = state[name][new * size : (new + 1) * size]
                assert torch.equal(actual, source[row * size : (row + 1) * size]), (name, new)


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


def test_a_bundle_gives_its_weights_and_names(tmp_path: Path) -> None:
    state = trained()
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / NETWORK_FILE).write_bytes(b"not looked at: the bundle has a state_dict")
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


class _Script:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("maskrcnn_resnet99:COCO_V1", None, "nothing known.*imagenet.*maskrcnn_resnet50_fpn", id="unknown"),
        pytest.param("maskrcnn_resnet50_fpn:COCO_V7", None, "no weights 'COCO_V7'.*COCO_V1", id="unknown weights"),
        pytest.param("{folder}/no/1", None, "no folder here", id="no such folder"),
        pytest.param("{folder}", None, "is no bundle: it has no manifest.json", id="a folder that is no bundle"),
        pytest.param("{folder}/a.pt", None, "no checkpoint at", id="no such checkpoint"),
        pytest.param("{folder}/a.pth", None, "no file", id="no such state_dict"),
        pytest.param("{folder}/a.pt", {"x": torch.zeros(1)}, "state_dict must be called .pth", id="no checkpoint"),
        pytest.param("{folder}/a.pth", b"PK\x03\x04 cut short", "not a readable state_dict", id="damaged"),
        pytest.param("{folder}/a.pth", {"model": {}}, "holds more than a state_dict", id="more than a state_dict"),
        pytest.param("{folder}/a.pth", {"x": _Script()}, "not a readable state_dict", id="code"),
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
