"""Networks of other channels than red, green and blue: what they are made of, and what becomes of RGB's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import build_model
from model.network.first_convolution import FIRST_WEIGHTS, adapted, take_channels
from model.network.graph.inference import InferenceGraph

TINY: dict[str, Any] = {
    "fpn_channels": 16,
    "box_head_channels": 16,
    "mask_head_convs": (16,),
    "mask_predictor_channels": 16,
    "rpn_pre_nms_top_n_test": 20,
    "rpn_post_nms_top_n_test": 20,
}
KINDS = {
    "fpn": {"backbone": "resnet18"},
    "c4": {"backbone": "resnet18", "features": "c4", "anchor_sizes": ((32, 64),)},
    "bottlenecks": {"backbone": "resnet50", "norm": "group_norm"},
    "mobilenet": {"backbone": "mobilenet_v3_small", "anchor_sizes": ((32,), (64,), (128,))},
}


@pytest.mark.parametrize(
    ("kind", "channels"), [("fpn", 1), ("fpn", 16), ("c4", 5), ("bottlenecks", 2), ("mobilenet", 5)]
)
def test_every_backbone_takes_so_many_channels(kind: str, channels: int) -> None:
    config = ArchitectureConfig.model_validate({**TINY, **KINDS[kind], "channels": channels})
    model = build_model(config).eval()
    name = next(name for name in FIRST_WEIGHTS if name in model.state_dict())
    assert model.state_dict()[name].shape[1] == channels
    graph = InferenceGraph(model)
    with torch.no_grad():
        outputs = graph(
            torch.zeros(1, 64, 96, channels, dtype=torch.uint8), torch.tensor([[64, 96]]), torch.tensor([0.5])
        )
    assert len(outputs) == len(graph.output_names)


def test_torchvision_s_class_takes_the_weights_once_its_first_convolution_is_replaced() -> None:
    """As docs/bundles.md says."""
    config = ArchitectureConfig.model_validate({**TINY, "backbone": "resnet18", "channels": 5})
    state = build_model(config).state_dict()
    theirs = build_model(ArchitectureConfig.model_validate({**TINY, "backbone": "resnet18"}))
    theirs.backbone.body.conv1 = nn.Conv2d(5, 64, kernel_size=7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(state, strict=True)


def test_a_replaced_convolution_is_the_old_one_but_for_its_channels() -> None:
    model = nn.Module()
    model.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
    take_channels(model, 6)
    new = model.conv1
    assert isinstance(new, nn.Conv2d)
    assert (new.in_channels, new.out_channels, new.kernel_size, new.stride, new.padding, new.bias) == (
        6,
        8,
        (7, 7),
        (2, 2),
        (3, 3),
        None,
    )
    # He et al., Delving Deep into Rectifiers, sec. 2.2: the deviation is sqrt(2 / (outputs * kernel area)).
    assert float(new.weight.detach().std()) == pytest.approx((2 / (8 * 49)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("sources", "channels", "taken", "factor"),
    [
        pytest.param(3, 2, [0, 1], 1.5, id="fewer"),
        pytest.param(3, 4, [0, 1, 2, 0], 0.75, id="one more"),
        pytest.param(3, 6, [0, 1, 2, 0, 1, 2], 0.5, id="twice"),
        pytest.param(5, 3, [0, 1, 2], 5 / 3, id="back to RGB"),
        pytest.param(1, 3, [0, 0, 0], 1 / 3, id="from gray"),
    ],
)
def test_weights_are_taken_in_turn_and_scaled(sources: int, channels: int, taken: list[int], factor: float) -> None:
    weight = torch.randn(4, sources, 3, 3)
    new = adapted(weight, channels)
    assert new.shape == (4, channels, 3, 3)
    for channel, source in enumerate(taken):
        torch.testing.assert_close(new[:, channel], weight[:, source] * factor)


@pytest.mark.parametrize("channels", [1, 6, 15])
def test_what_is_alike_in_all_channels_is_answered_as_in_rgb(channels: int) -> None:
    weight, gray = torch.randn(4, 3, 3, 3), torch.rand(1, 1, 9, 9)
    expected = F.conv2d(gray.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(F.conv2d(gray.expand(-1, channels, -1, -1), adapted(weight, channels)), expected)


def test_manifests_of_rgb_networks_say_nothing_of_channels() -> None:
    for preset in PRESETS.values():
        assert "channels" not in preset.model_dump()
        assert preset.image_mean == (0.485, 0.456, 0.406)
    five = ArchitectureConfig(channels=5)
    assert five.model_dump()["channels"] == 5
    assert ArchitectureConfig.model_validate_json(five.model_dump_json()) == five


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 5, "image_mean": (0.5, 0.5, 0.5)}, "image_mean has 3 values, but the network takes 5 channels"),
        ({"channels": 2, "image_std": (0.5,)}, "image_std has 1 values, but the network takes 2 channels"),
        ({"image_mean": (0.5,)}, "image_mean has 1 values, but the network takes 3 channels"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"channels": 17}, "less than or equal to 16"),
        ({"channels": 1, "image_std": (0.0,)}, "greater than 0"),
    ],
)
def test_means_and_deviations_are_of_as_many_channels(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArchitectureConfig.model_validate(fields)


def test_means_and_deviations_that_are_left_out_are_filled_in() -> None:
    five = ArchitectureConfig.model_validate({"channels": 5, "image_std": [0.1, 0.2, 0.3, 0.4, 0.5]})
    assert five.image_mean == (0.449,) * 5
    assert five.image_std == (0.1, 0.2, 0.3, 0.4, 0.5)
