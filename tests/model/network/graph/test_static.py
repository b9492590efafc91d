"""The graph of fixed shapes: the same answers, in half precision nearly, and honest about when they may not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from model.network.graph.half import fold_norms, halve
from model.network.graph.static import StaticGraph, suppress
from model.network.serving.engine import StaticEngine

SIZES = [(128, 160), (97, 155), (100, 100)]
EXACT = {"pixels": 2e-3, "probability": 1e-4}
# Convolutions in channels-last layout add in another order.
ROUNDING = {"pixels": 0.02, "probability": 2e-3, "order": False}


def threshold(score: float, images: int) -> np.ndarray:
    return np.full(images, score, dtype=np.float32)


def falling_boxes(groups: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(groups, count, 2, generator=generator) * 80
    return torch.cat((corner, corner + 5 + torch.rand(groups, count, 2, generator=generator) * 40), dim=2)


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.7])
def test_suppression_is_torchvisions(iou: float) -> None:
    boxes = falling_boxes(4, 300)
    scores = torch.linspace(1, 0, 300)
    labels = torch.randint(0, 3, (4, 300), generator=torch.Generator().manual_seed(1))
    takes_part = torch.rand(4, 300, generator=torch.Generator().manual_seed(2)) < 0.9
    keep, settled = suppress(boxes, takes_part, iou, labels)
    assert settled.all()
    for group in range(4):
        rows = takes_part[group].nonzero().squeeze(1)
        expected = rows[batched_nms(boxes[group, rows], scores[rows], labels[group, rows], iou)]
        assert keep[group].nonzero().squeeze(1).tolist() == sorted(expected.tolist())


def test_a_chain_longer_than_the_rounds_is_not_settled() -> None:
    """Each box overlaps its neighbors alone, so that every second one stays and the last hangs on the first."""
    left = torch.arange(20.0) * 4
    chain = torch.stack((left, 0 * left, left + 10, 0 * left + 10), dim=1)[None]
    everybody = torch.ones(1, 20, dtype=torch.bool)
    assert suppress(chain, everybody, 0.3, rounds=25).keep[0].tolist() == [True, False] * 10
    assert suppress(chain, everybody, 0.3, rounds=25).settled.all()
    assert not suppress(chain, everybody, 0.3, rounds=10).settled.any()


@pytest.mark.parametrize("part", ["masks", "masks_v2", "masks_keypoints", "c4", "roi_pool", "softmax", "mobilenet"])
def test_answer_is_torchvisions(helpers: Any, part: str) -> None:
    parts = {"masks": {"task": "masks"}, "masks_v2": {"task": "masks", **helpers.v2}, "mobilenet": helpers.mobilenet}
    model = helpers.detector(helpers.small.model_copy(update={**parts, **helpers.variants}[part]))
    batch = helpers.batch(128, 160, SIZES)
    engine = StaticEngine(StaticGraph(model))
    ours = engine.run(batch.images, batch.sizes, threshold(0.2, len(SIZES)))
    assert engine.answered_again == {"overflow": 0, "inexact": 0}
    assert len(ours.boxes) >= 5 * len(SIZES), "the test needs detections to compare"
    helpers.assert_same_answer(ours, helpers.torchvision_answer(model, batch, 0.2), **EXACT)


def test_images_without_detections_and_with_other_thresholds_share_a_batch(helpers: Any) -> None:
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks"}))
    batch = helpers.batch(128, 160, SIZES)
    ours = StaticEngine(StaticGraph(model)).run(batch.images, batch.sizes, np.array([0.3, 1.0, 0.6], np.float32))
    assert set(ours.image_index) == {0, 2}
    assert ours.scores[ours.image_index == 2].min() > 0.6
    assert ours.masks is not None
    assert ours.masks.shape == (len(ours.boxes), 28, 28)


def test_too_few_candidates_are_counted_as_inexact(helpers: Any) -> None:
    model = helpers.detector(helpers.small)
    batch = helpers.batch(128, 160, SIZES)
    engine = StaticEngine(StaticGraph(model, candidates=1))
    engine.run(batch.images, batch.sizes, threshold(0.05, len(SIZES)))
    assert 0 < engine.answered_again["inexact"] <= len(SIZES)


@pytest.mark.parametrize("part", [{"task": "masks"}, {"task": "masks", "norm": "batch_norm", "fpn_norm": True}])
def test_folded_and_channels_last_it_answers_the_same(helpers: Any, part: dict[str, object]) -> None:
    model = helpers.detector(helpers.small.model_copy(update=part))
    batch = helpers.batch(128, 160, SIZES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = halve(model, torch.float32)
    ours = StaticEngine(graph).run(batch.images, batch.sizes, threshold(0.2, len(SIZES)))
    expected = helpers.torchvision_answer(model, batch, 0.2)
    helpers.assert_same_answer(ours, expected, **ROUNDING)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not [m for m in graph.backbone.modules() if "BatchNorm" in type(m).__name__]


def test_half_precision_finds_most_of_the_same(helpers: Any) -> None:
    """bfloat16 stands in for float16: every CPU has its convolutions. Eight times coarser, so little is asked."""
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks"}))
    batch = helpers.batch(128, 160, SIZES)
    graph = halve(model, torch.bfloat16)
    assert graph.backbone.body.conv1.weight.dtype == torch.bfloat16
    ours = StaticEngine(graph).run(batch.images, batch.sizes, threshold(0.2, len(SIZES)))
    expected = helpers.torchvision_answer(model, batch, 0.2)
    assert ours.boxes.dtype == np.float32
    assert ours.masks is not None
    assert ours.masks.dtype == np.float32
    near = 0
    for index, image in enumerate(expected):
        own = ours.of_image(index)
        for box, label in zip(image["boxes"].numpy(), image["labels"].numpy(), strict=True):
            apart = np.abs(own.boxes - box).max(axis=1, initial=0)
            near += bool(((apart < 4) & (own.labels == label)).any())
    assert near > 0.5 * sum(len(image["boxes"]) for image in expected)


def test_norms_fold_by_name_and_by_order() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    for norm in (block[1], block[3]):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    block.eval()
    x = torch.rand(2, 3, 8, 8)
    expected = block(x)
    assert fold_norms(block) == 1, "the second norm follows no convolution"
    torch.testing.assert_close(block(x), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fused", [False, True])
def test_a_replayed_graph_answers_as_an_eager_one(helpers: Any, fused: bool) -> None:
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks"})).to("cuda")
    batch = helpers.batch(128, 160, SIZES)
    captured = StaticEngine(halve(model, fused=fused))
    for score in (0.3, 0.2):
        expected = StaticEngine(halve(model), capture=False).run(batch.images, batch.sizes, threshold(score, 3))
        ours = captured.run(batch.images, batch.sizes, threshold(score, 3))
        assert len(ours.boxes) > 0
        assert abs(len(ours.boxes) - len(expected.boxes)) <= 0.1 * len(expected.boxes)
