"""ArchitectureConfig -> torchvision, strictly loadable there; published weights by name."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import build_model
from model.network.published import load_imagenet_backbone, published_model

SMALL = ArchitectureConfig(
    backbone="resnet18",
    num_classes=3,
    fpn_channels=16,
    box_head_channels=16,
    box_head_convs=(16,),
    mask_head_convs=(16,),
    mask_predictor_channels=16,
    keypoint_head_convs=(16,),
)


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return model.state_dict()


def without_counters(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    # torchvision builds plain batch norm when it has no weights to load; frozen batch norm has no batch counter.
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_torchvisions_models(name: str) -> None:
    built = build_model(PRESETS[name])
    assert without_counters(built.state_dict()) == without_counters(torchvision_state(name))


def test_state_loads_strictly_into_torchvision_alone() -> None:
    built = build_model(PRESETS["maskrcnn_resnet50_fpn_v2"].model_copy(update={"num_classes": 7}))
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=7)
    assert theirs.load_state_dict(built.state_dict(), strict=True).missing_keys == []
    assert torch.equal(theirs.state_dict()["roi_heads.mask_head.0.0.weight"], built.roi_heads.mask_head[0][0].weight)


@pytest.mark.parametrize(("task", "kind"), [("boxes", FasterRCNN), ("masks", MaskRCNN), ("keypoints", KeypointRCNN)])
def test_task_names_the_class(task: str, kind: type) -> None:
    config = ArchitectureConfig.model_validate({**SMALL.model_dump(), "task": task})
    model = build_model(config)
    assert type(model) is kind
    assert type(model).__name__ == config.torchvision_class


@pytest.mark.parametrize(
    ("backbone", "norm", "layer"),
    [
        pytest.param("resnet18", "frozen_batch_norm", torchvision.ops.FrozenBatchNorm2d, id="frozen"),
        pytest.param("resnet18", "batch_norm", nn.BatchNorm2d, id="batch norm"),
        pytest.param("resnet18", "group_norm", nn.GroupNorm, id="group norm"),
        pytest.param("resnext50_32x4d", "frozen_batch_norm", torchvision.ops.FrozenBatchNorm2d, id="ResNeXt"),
        pytest.param("mobilenet_v3_small", "batch_norm", nn.BatchNorm2d, id="MobileNetV3 small"),
        pytest.param("mobilenet_v3_large", "group_norm", nn.GroupNorm, id="MobileNetV3, groups that do not divide"),
    ],
)
def test_backbones_and_norms_detect(backbone: str, norm: str, layer: type) -> None:
    levels = 3 if backbone.startswith("mobilenet") else 5
    config = ArchitectureConfig.model_validate(
        {**SMALL.model_dump(), "backbone": backbone, "norm": norm, "anchor_sizes": ((32,),) * levels}
    )
    model = build_model(config).eval()
    assert any(isinstance(module, layer) for module in model.backbone.body.modules())
    with torch.no_grad():
        answer = model([torch.rand(3, 64, 96)])[0]
    assert set(answer) == {"boxes", "labels", "scores", "masks"}


@pytest.mark.parametrize(("trainable", "frozen"), [(0, 5), (3, 2), (5, 0)])
def test_frozen_stages(trainable: int, frozen: int) -> None:
    body = build_model(
        SMALL.model_copy(update={"norm": "batch_norm"}), trainable_backbone_layers=trainable
    ).backbone.body
    stages = [body.conv1, body.layer1, body.layer2, body.layer3, body.layer4]
    learning = [all(parameter.requires_grad for parameter in stage.parameters()) for stage in stages]
    assert learning == [False] * frozen + [True] * (5 - frozen)


def put_into_hub_cache(home: Path, url: str, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(home))
    checkpoints = home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints / url.rsplit("/", 1)[1])


def test_published_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own file format, found in the hub cache as torchvision itself would find it."""
    entry = torchvision.models.get_model_weights("maskrcnn_resnet50_fpn")["COCO_V1"]
    state = {k: v for k, v in torchvision_state("maskrcnn_resnet50_fpn").items() if not k.endswith("tracked")}
    put_into_hub_cache(tmp_path, entry.url, state, monkeypatch)
    published = published_model("maskrcnn_resnet50_fpn", "COCO_V1")
    assert len(published.class_names) == 90
    assert published.class_names[0] == "person"
    assert published.architecture.norm_eps == 0.0
    theirs = torchvision.models.get_model("maskrcnn_resnet50_fpn", weights="COCO_V1").eval()
    image = torch.rand(3, 64, 64)
    for model in (theirs, published.model):
        model.transform.min_size, model.transform.max_size = (64,), 64
        model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        expected, actual = theirs([image])[0], published.model([image])[0]
    assert len(expected["scores"]) > 0
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        pytest.param("maskrcnn_resnet99", "COCO_V1", "maskrcnn_resnet50_fpn_v2", id="unknown model names the known"),
        pytest.param("maskrcnn_resnet50_fpn", "COCO_V9", "COCO_V1", id="unknown weights name the known"),
    ],
)
def test_unknown_published_models(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        published_model(name, weights)


def test_imagenet_backbone_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = torchvision.models.get_model_weights("resnet18")["DEFAULT"]
    source = torchvision.models.resnet18(weights=None)
    put_into_hub_cache(tmp_path, entry.url, source.state_dict(), monkeypatch)
    model = build_model(SMALL)
    load_imagenet_backbone(model, SMALL)
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="group_norm"):
        load_imagenet_backbone(model, SMALL.model_copy(update={"norm": "group_norm"}))
