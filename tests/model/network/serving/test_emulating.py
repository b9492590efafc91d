"""Half precision on a CPU: sums in float32, each layer's answer rounded, and how near it came to too large a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model.network.engine import EagerEngine
from model.network.serving.emulating import EmulatedHalf, _Rounding
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from tests.service.harness import ROOT

SIZES = [(64, 96), (60, 90)]
FEW = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "detections_per_image": 8}
"""Little to compute."""

LAYERS = [
    pytest.param(lambda: nn.Conv2d(8, 4, 3, padding=1), (2, 8, 5, 5), id="convolution"),
    pytest.param(lambda: nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False), (1, 8, 9, 9), id="one for each channel"),
    pytest.param(lambda: nn.ConvTranspose2d(8, 4, 2, 2), (2, 8, 5, 5), id="transposed convolution"),
    pytest.param(lambda: nn.Linear(64, 7), (3, 64), id="linear"),
    pytest.param(lambda: nn.Linear(64, 7, bias=False), (2, 3, 64), id="linear without a bias"),
]


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_sums_are_float32_and_answers_are_rounded(make: Any, shape: tuple[int, ...], inference: bool) -> None:
    torch.manual_seed(0)
    layer, seen = make().half(), (torch.randn(shape) * 30).half()
    rounding = _Rounding()
    with torch.inference_mode(inference), torch.no_grad(), rounding:
        answer = layer(seen)
    exact = make().float()
    exact.load_state_dict(layer.state_dict())
    expected = exact(seen.float()).detach()
    assert answer.dtype == torch.float16
    assert torch.equal(answer, expected.half())
    assert rounding.largest == expected.abs().max()


def test_other_operations_are_seen_too() -> None:
    rounding = _Rounding()
    with rounding:
        one = torch.full((2, 2), 40000.0, dtype=torch.float16)
        one.view(4)
        assert rounding.largest == 40000
        (one / 2 + one / 2).float() * 2
        assert rounding.largest == 40000, "what is float32 has room"
        one += one
    assert rounding.largest == np.inf


def test_a_trained_network_answers_nearly_the_same() -> None:
    model = load_network(open_bundle(ROOT / "model" / "embedded" / "nuclei" / "1"))
    model.roi_heads.detections_per_img = 20  # each of its places costs time
    pixels = np.asarray(Image.open(ROOT / "model" / "samples" / "nuclei" / "stained.png").convert("RGB"))
    images, sizes = pixels[None, 64:160, 64:160], np.array([[96, 96]])
    expected = EagerEngine(model).run(images, sizes, np.full(1, 0.5, np.float32))
    engine = EmulatedHalf(model)
    answer = engine.run(images, sizes, np.full(1, 0.5, np.float32))
    assert engine.answered_again == {"overflow": 0, "inexact": 0}
    assert len(answer.scores) == len(expected.scores) > 5
    np.testing.assert_allclose(answer.scores, expected.scores, atol=0.02)
    np.testing.assert_allclose(answer.boxes, expected.boxes, atol=0.5)
    assert np.abs(answer.scores - expected.scores).max() > 1e-6, "it was rounded"
    assert 10 < engine.head_room < 65504


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_what_overflows_has_no_head_room_and_is_answered_again(helpers: Any, factor: float) -> None:
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks", **FEW}))
    with torch.no_grad():
        model.backbone.body.layer3[0].conv1.weight.mul_(factor)
        model.backbone.body.layer3[0].bn1.running_mean.zero_()
    batch, thresholds = helpers.batch(64, 96, SIZES), np.full(2, 0.2, np.float32)
    engine = EmulatedHalf(model)
    answer = engine.run(batch.images, batch.sizes, thresholds)
    overflows = factor > 1
    assert engine.answered_again == {"overflow": 2 * overflows, "inexact": 0}
    assert (engine.head_room < 1) is overflows
    if overflows:
        expected = EagerEngine(model).run(batch.images, batch.sizes, thresholds)
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
