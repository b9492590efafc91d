"""ArchitectureConfig -> torchvision, strictly loadable there."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import build_model, build_unfilled
from model.network.exporting.structure import structure

SMALL = ArchitectureConfig(
    backbone="resnet18",
    num_classes=3,
    fpn_channels=16,
    box_head_channels=16,
    box_head_convs=(16,),
    mask_head_convs=(16,),
    mask_predictor_channels=16,
    keypoint_head_convs=(16,),
    min_size=64,
    max_size=128,
)


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return model.state_dict()


def without_counters(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    # torchvision builds plain batch norm when it has no weights to load; frozen batch norm has no batch counter.
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_torchvisions_models(name: str) -> None:
    with torch.device("meta"):  # names and shapes are compared, and no values
        built = build_model(PRESETS[name])
        assert without_counters(built.state_dict()) == without_counters(torchvision_state(name))


def test_state_loads_strictly_into_torchvision_alone() -> None:
    built = build_model(PRESETS["maskrcnn_resnet50_fpn_v2"].model_copy(update={"num_classes": 7}))
    with torch.device("meta"):
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=7
        )
    theirs.to_empty(device="cpu")
    assert theirs.load_state_dict(built.state_dict(), strict=True).missing_keys == []
    assert torch.equal(theirs.state_dict()["roi_heads.mask_head.0.0.weight"], built.roi_heads.mask_head[0][0].weight)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"norm": "batch_norm"}, id="batch norm"),
        pytest.param({"features": "c4", "anchor_sizes": ((32, 64),)}, id="a stage that two heads share"),
        pytest.param({"task": "masks_keypoints"}, id="masks and keypoints"),
    ],
)
def test_an_unfilled_network_is_the_same_once_it_has_weights(changes: dict[str, object]) -> None:
    config = SMALL.model_copy(update={"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 10, **changes})
    filled, unfilled = build_model(config).eval(), build_unfilled(config).eval()
    unfilled.load_state_dict(filled.state_dict(), strict=True)
    assert structure(unfilled) == structure(filled)
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        ours, theirs = unfilled([image])[0], filled([image])[0]
    assert len(theirs["boxes"]) > 0
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


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
