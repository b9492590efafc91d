from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops.poolers import LevelMapper

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import Detector, build_model
from model.network.engine import EagerEngine
from model.network.graph.inference import InferenceGraph, evaluating, in_parts

ONE = [(128, 160)]
TWO = [(120, 160), (128, 131)]
THREE = [(100, 100), (128, 160), (97, 150)]
EIGHT = [(128, 160), (97, 155), (128, 99), (99, 99), (110, 160), (128, 160), (120, 101), (104, 144)]

EXACT = {"pixels": 1e-3, "probability": 1e-4}


def threshold(score: float, images: int) -> np.ndarray:
    return np.full(images, score, dtype=np.float32)


@pytest.fixture(scope="module")
def masks_model(helpers: Any) -> Detector:
    return helpers.detector(helpers.small.model_copy(update={"task": "masks"}))


@pytest.fixture(scope="module")
def parts(helpers: Any) -> dict[str, dict[str, object]]:
    return {
        "boxes": {},
        "masks": {"task": "masks"},
        "masks_v2": {"task": "masks", **helpers.v2},
        "masks_group_norm": {"task": "masks", "norm": "group_norm", "fpn_norm": True},
        "keypoints": {"task": "keypoints", "num_classes": 2},
        "mobilenet": helpers.mobilenet,
        "one class, few proposals": {"num_classes": 2, "rpn_post_nms_top_n_test": 30},
        "proposals need a score": {"rpn_score_threshold": 0.6},
        **helpers.variants,
    }


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("boxes", EIGHT),
        ("masks", ONE),
        ("masks", EIGHT),
        ("masks_v2", THREE),
        ("masks_group_norm", TWO),
        ("keypoints", THREE),
        ("mobilenet", TWO),
        ("one class, few proposals", TWO),
        ("proposals need a score", TWO),
        ("c4", TWO),
        ("c4_boxes", TWO),
        ("c4_bottleneck", ONE),
        ("roi_pool", THREE),
        ("softmax", THREE),
        ("softmax_mlp", TWO),
        ("agnostic", TWO),
        ("mlp", TWO),
        ("mlp_agnostic", TWO),
        ("masks_keypoints", THREE),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} images",
)
def test_answer_is_torchvisions(
    helpers: Any, parts: dict[str, dict[str, object]], part: str, sizes: list[tuple[int, int]]
) -> None:
    model = helpers.detector(helpers.small.model_copy(update=parts[part]))
    batch = helpers.batch(128, 160, sizes)
    expected = helpers.torchvision_answer(model, batch, 0.2)
    ours = EagerEngine(model).run(batch.images, batch.sizes, threshold(0.2, len(sizes)))
    assert len(ours.boxes) >= 5 * len(sizes), "the test needs detections to compare"
    helpers.assert_same_answer(ours, expected, **EXACT)


@pytest.mark.parametrize("name", PRESETS)
def test_answer_of_the_presets_is_torchvisions(helpers: Any, name: str) -> None:
    small = {"fpn_channels": 32, "rpn_post_nms_top_n_test": 50, "detections_per_image": 20, "num_classes": 7}
    narrow = {"box_head_convs": (32,), "mask_head_convs": (32,), "keypoint_head_convs": (32,), "box_head_channels": 64}
    model = helpers.detector(PRESETS[name].model_copy(update={**small, **narrow}))
    batch = helpers.batch(96, 128, [(96, 128), (90, 100)])
    expected = helpers.torchvision_answer(model, batch, 0.1)
    ours = EagerEngine(model).run(batch.images, batch.sizes, threshold(0.1, 2))
    assert len(ours.boxes) > 0
    helpers.assert_same_answer(ours, expected, **EXACT)


def test_each_image_has_its_own_threshold(helpers: Any, masks_model: Detector) -> None:
    batch = helpers.batch(128, 160, THREE)
    scores = np.array([0.3, 1.0, 0.6], dtype=np.float32)
    expected = helpers.torchvision_answer(masks_model, batch, 0.3)
    for detection, least in zip(expected, scores, strict=True):
        above = detection["scores"] > float(least)
        detection.update({name: value[above] for name, value in detection.items()})
    ours = EagerEngine(masks_model).run(batch.images, batch.sizes, scores)
    assert set(ours.image_index) == {0, 2}
    helpers.assert_same_answer(ours, expected, **EXACT)


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_a_batch_without_detections(helpers: Any, task: str) -> None:
    config = helpers.small.model_copy(update={"task": task})
    batch = helpers.batch(64, 64, [(64, 64), (50, 64)])
    ours = EagerEngine(build_model(config)).run(batch.images, batch.sizes, threshold(1.0, 2))
    assert ours.boxes.shape == (0, 4)
    assert ours.scores.shape == ours.labels.shape == ours.image_index.shape == (0,)
    assert (ours.boxes.dtype, ours.labels.dtype, ours.image_index.dtype) == (np.float32, np.int64, np.int64)
    if task == "masks":
        assert ours.masks is not None
        assert ours.masks.shape == (0, 28, 28)
    if task == "keypoints":
        assert ours.keypoint_heatmaps is not None
        assert ours.keypoint_heatmaps.shape == (0, config.num_keypoints, 56, 56)


def test_an_image_without_a_single_proposal(helpers: Any) -> None:
    model = helpers.detector(helpers.small)
    model.rpn.score_thresh = 1.0
    batch = helpers.batch(64, 64, [(64, 64)])
    assert len(EagerEngine(model).run(batch.images, batch.sizes, threshold(0.0, 1)).boxes) == 0


def test_proposals_whose_objectness_saturates_keep_their_rank(helpers: Any) -> None:
    model = helpers.detector(helpers.small)
    engine = EagerEngine(model)
    batch = helpers.batch(128, 160, TWO)
    before = engine.run(batch.images, batch.sizes, threshold(0.2, 2))
    with torch.no_grad():  # a power of two is exact; most sigmoids become 0 or 1
        model.rpn.head.cls_logits.weight.mul_(1024)
        model.rpn.head.cls_logits.bias.mul_(1024)
    after = engine.run(batch.images, batch.sizes, threshold(0.2, 2))
    assert len(before.boxes) > 0
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.scores, before.scores)


def test_neighbors_and_padding_change_nothing(helpers: Any, masks_model: Detector) -> None:
    engine = EagerEngine(masks_model)
    batch = helpers.batch(128, 160, EIGHT)
    together = engine.run(batch.images, batch.sizes, threshold(0.2, len(EIGHT)))
    for index, (height, width) in enumerate(EIGHT):
        images = batch.images[index : index + 1].copy()
        images[:, height:] = 0
        images[:, :, width:] = 0
        alone = engine.run(images, batch.sizes[index : index + 1], threshold(0.2, 1))
        image = together.of_image(index)
        assert len(alone.boxes) > 0
        np.testing.assert_array_equal(image.labels, alone.labels)
        np.testing.assert_allclose(image.boxes, alone.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(image.scores, alone.scores, rtol=0, atol=1e-5)
        assert image.masks is not None
        assert alone.masks is not None
        np.testing.assert_allclose(image.masks, alone.masks, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "cells", "distance"),
    [
        pytest.param(256, 4, 64, id="a multiple of 64"),
        pytest.param(800, 13, 61, id="800 px: 13 cells of the coarsest level, 61 px apart"),
    ],
)
def test_anchors_are_torchvisions(masks_model: Detector, side: int, cells: int, distance: int) -> None:
    graph = InferenceGraph(masks_model)
    pixels, level = torch.empty(1, 3, side, 64), torch.empty(1, 32, cells, 1)
    anchors = graph._anchors(4, pixels, level)
    grid = masks_model.rpn.anchor_generator.cell_anchors[4:5]
    masks_model.rpn.anchor_generator.cell_anchors, saved = grid, masks_model.rpn.anchor_generator.cell_anchors
    strides = [[torch.tensor(distance), torch.tensor(64)]]
    expected = masks_model.rpn.anchor_generator.grid_anchors([[cells, 1]], strides)[0]
    masks_model.rpn.anchor_generator.cell_anchors = saved
    torch.testing.assert_close(anchors, expected, rtol=0, atol=0)


def test_pool_levels_step_exactly_where_torchvisions_do(masks_model: Detector) -> None:
    plan = InferenceGraph(masks_model).box_pool
    assert [stride for _, stride in plan.levels] == [4, 8, 16, 32]
    mapper = LevelMapper(2, 5)
    for level, bound in enumerate(plan.bounds):
        steps = torch.tensor([bound])
        around = torch.cat([steps.nextafter(torch.tensor([0.0])), steps, steps.nextafter(torch.tensor([1e9]))])
        # Height 1: the area is the squared side up to rounding; compare by the root that both take.
        boxes = torch.stack((0 * around, 0 * around, around.square(), 0 * around + 1), dim=1)
        root = boxes[:, 2].sqrt()
        assert mapper([boxes]).tolist() == [level + int(value >= bound) for value in root]


def test_two_levels_of_one_stride_pool_from_the_first(helpers: Any) -> None:
    plan = InferenceGraph(build_model(helpers.small.model_copy(update=helpers.mobilenet))).box_pool
    assert plan.levels == (("0", 32),)
    assert plan.bounds == ()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_in_parts_is_the_same_in_less_memory(count: int) -> None:
    features = torch.arange(count * 6.0).view(count, 2, 3)
    labels = torch.arange(count) % 3
    sizes = []

    def compute(features: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(features))
        return features.flatten(1) + labels.unsqueeze(1)

    answer = in_parts(compute, features, labels, 4)
    assert torch.equal(answer, features.flatten(1) + labels.unsqueeze(1))
    assert len(sizes) == 4
    assert 1 <= min(sizes) <= max(sizes) <= (count + 3) // 4


def test_names_are_the_models(masks_model: Detector) -> None:
    assert set(InferenceGraph(masks_model).state_dict()) == set(masks_model.state_dict())


def test_building_and_probing_leave_the_training_mode_alone() -> None:
    model = build_model(ArchitectureConfig(backbone="resnet18", fpn_channels=16, norm="batch_norm"))
    model.train()
    model.backbone.body.layer1.eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.backbone.body.bn1.running_mean.clone()
    graph = InferenceGraph(model)
    with evaluating(graph):
        assert not any(module.training for module in graph.modules())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.backbone.body.bn1.running_mean, statistics)


def test_other_models_are_refused() -> None:
    model = build_model(ArchitectureConfig(backbone="resnet18", fpn_channels=16))
    model.roi_heads.mask_predictor = nn.Conv2d(256, 91, 1)
    with pytest.raises(TypeError, match="or an MlpMaskPredictor, got Conv2d"):
        InferenceGraph(model)
    backbone = nn.Conv2d(3, 8, 1)
    backbone.out_channels = 8
    with pytest.raises(TypeError, match="or a C4Backbone, got Conv2d"):
        InferenceGraph(FasterRCNN(backbone, num_classes=2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_answers_as_the_cpu(helpers: Any) -> None:
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks"}))
    batch = helpers.batch(128, 160, EIGHT)
    expected = helpers.torchvision_answer(model, batch, 0.3)
    engine = EagerEngine(model, "cuda")
    assert engine.device == "cuda"
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    ours = engine.run(batch.images, batch.sizes, threshold(0.3, len(EIGHT)))
    torch.backends.cudnn.allow_tf32 = tf32
    helpers.assert_same_answer(ours, expected, pixels=0.05, probability=1e-3, order=False)
