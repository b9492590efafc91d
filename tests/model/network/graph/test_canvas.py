"""Whatever an image is padded to beyond its own canvas, it is answered as in that alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign

from model.network.engine import EagerEngine
from model.network.graph.canvas import Canvases
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.graph.pooling import PoolPlan, plan_pooling
from model.network.graph.static import StaticGraph, pool_every_slot
from model.network.heads import MultiScaleRoIPool
from model.network.serving.emulating import EmulatedHalf
from model.network.serving.engine import StaticEngine
from model.runtime.buckets import Buckets
from model.runtime.detections import RawDetections
from model.runtime.preprocess import Preprocessing

CANVASES = ((96, 64), (32, 160), (128, 128))
"""(height, width) in pixels: in 128 x 160 the first ends within both sides, the others within one."""
VALID = ((90, 64), (32, 150), (100, 128))
PADDED = (128, 160)
SEEN = Preprocessing(min_size=128, max_size=256)
FEW = {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 30, "detections_per_image": 10}
"""Little to compute."""
FEWER = {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 8, "detections_per_image": 4}
"""Of which each costs a stage of a ResNet."""

PARTS: dict[str, dict[str, object]] = {
    "masks": {"task": "masks"},
    "grouped": {"norm": "group_norm", "fpn_norm": True},
    "bottlenecks": {"backbone": "resnext50_32x4d", "task": "keypoints", "num_classes": 2},
    "sixteen_channels": {"channels": 16, "image_mean": (0.4,) * 16, "image_std": (0.2,) * 16},
}
OTHERS = ("masks_v2", "mobilenet", "c4", "roi_pool", "masks_keypoints")


def images_in(helpers: Any, channels: int = 3) -> list[np.ndarray]:
    """uint8 [H, W, C] of the canvases; there is noise beside what is valid."""
    canvases = zip(CANVASES, VALID, strict=True)
    return [helpers.batch(*canvas, [valid], seed=5, channels=channels).images[0] for canvas, valid in canvases]


def answers(engine: Any, images: list[np.ndarray], score: float = 0.05) -> list[RawDetections]:
    thresholds = np.full(1, score, np.float32)
    return [engine.run(image[None], np.array([valid]), thresholds) for image, valid in zip(images, VALID, strict=True)]


def assert_alike(found: RawDetections, expected: RawDetections) -> None:
    assert len(expected.scores) > 2, "the test needs detections to compare"
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.02)
    for name in ("masks", "keypoint_heatmaps"):
        if (maps := getattr(expected, name)) is not None:
            np.testing.assert_allclose(getattr(found, name), maps, atol=2e-3)


@pytest.mark.parametrize("part", [*PARTS, *OTHERS])
def test_any_network_answers_in_any_padded_size_as_in_the_canvas(helpers: Any, part: str) -> None:
    known = {**PARTS, "masks_v2": {"task": "masks", **helpers.v2}, "mobilenet": helpers.mobilenet, **helpers.variants}
    config = helpers.small.model_copy(update={**known[part], **(FEWER if part == "c4" else FEW)})
    model = helpers.detector(config)
    images = images_in(helpers, config.channels)
    expected = answers(EagerEngine(model), images)
    engine = StaticEngine(StaticGraph(model))
    together = engine.submit(images, np.array(VALID), np.full(len(VALID), 0.05, np.float32)).result()
    for index, one in enumerate(expected):
        assert_alike(together.of_image(index), one)
    assert engine.answered_again == {"overflow": 0, "inexact": 0}


def test_in_half_precision_too(helpers: Any) -> None:
    """Rounded, but by nothing else: padding changes no more than the order of sums."""
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks", "norm": "group_norm", **FEW}))
    half = EmulatedHalf(model)
    padded = StaticEngine(half.graph, buckets=Buckets(SEEN), forward=half._rounded)
    images = images_in(helpers)
    assert [padded.bucket(canvas) for canvas in CANVASES] == [(128, 64), (32, 160), (128, 128)]
    for found, expected in zip(answers(padded, images, 0.3), answers(half, images, 0.3), strict=True):
        assert len(expected.scores) > 2
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-3)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.1)


def test_what_is_answered_again_is_so_in_the_canvas(helpers: Any) -> None:
    model = helpers.detector(helpers.small.model_copy(update=FEW))
    graph = StaticGraph(model, candidates=1)
    engine = StaticEngine(graph, exact=InferenceGraph(model).eval())
    images = images_in(helpers)
    together = engine.submit(images, np.array(VALID), np.full(len(VALID), 0.05, np.float32)).result()
    assert engine.answered_again["inexact"] == len(VALID)
    for index, one in enumerate(answers(EagerEngine(model), images)):
        assert_alike(together.of_image(index), one)


def test_where_no_canvas_ends_within_its_bucket_nothing_is_done(helpers: Any) -> None:
    seen: list[Tensor | None] = []

    def noted(images: Tensor, sizes: Tensor, thresholds: Tensor, canvases: Tensor | None) -> Any:
        seen.append(canvases)
        return graph(images, sizes, thresholds, canvases)

    graph = StaticGraph(helpers.detector(helpers.small.model_copy(update=FEW))).eval()
    engine = StaticEngine(graph, forward=noted, batch_size=2)
    whole, part = np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)
    for given in ([whole], [whole, part]):
        sizes = np.array([image.shape[:2] for image in given])
        engine.submit(given, sizes, np.full(len(given), 0.5, np.float32)).result()
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].tolist() == [[64, 64], [32, 64]]


def features(channels: int, cells: tuple[int, int] = (16, 20)) -> Tensor:
    """Of stride 8; other numbers beyond the canvases."""
    torch.manual_seed(0)
    return torch.randn(len(CANVASES), channels, *cells) + 3


def within(level: Tensor, index: int, stride: int = 8) -> Tensor:
    """[1, C, h, w], of one canvas."""
    height, width = (-(-side // stride) for side in CANVASES[index])
    return level[index : index + 1, :, :height, :width]


LAYERS = [
    pytest.param(nn.Conv2d(8, 4, 3, padding=1), id="convolution"),
    pytest.param(nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8), id="five wide"),
    pytest.param(nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), id="largest of neighbors"),
    pytest.param(nn.AdaptiveAvgPool2d(1), id="mean"),
    pytest.param(nn.GroupNorm(2, 8), id="group norm"),
    pytest.param(nn.Conv2d(8, 4, 1), id="no neighbors"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_computes_as_in_the_canvas(layer: nn.Module, dtype: torch.dtype) -> None:
    layer, level = layer.to(dtype), features(8).to(dtype)
    stride = 8 * next((part.stride for part in layer.modules() if isinstance(part, nn.MaxPool2d)), 1)
    if isinstance(layer, nn.Conv2d):
        stride = 8 * layer.stride[0]
    with torch.inference_mode():
        expected = [layer(within(level, index).clone()) for index in range(len(CANVASES))]
        with Canvases(torch.tensor(CANVASES), PADDED):
            answer = layer(level)
    assert answer.dtype == dtype
    for index, one in enumerate(expected):
        found = answer[index : index + 1] if answer.shape[-1] == 1 else within(answer, index, stride)
        torch.testing.assert_close(found, one)


def test_a_level_that_the_canvas_does_not_fill_up_has_its_anchors_further_apart_or_nearer() -> None:
    """Of 96 pixels' second cell of 64 a half is there, of 32 pixels' one too."""
    canvases = Canvases(torch.tensor(CANVASES), PADDED)
    level = torch.zeros(3, 1, 2, 3)
    assert canvases.extent(level).tolist() == [[2, 1], [1, 3], [2, 2]]
    assert canvases.spacing(level).tolist() == [[48, 64], [32, 53], [64, 64]]
    assert (~canvases.outside(level)).sum((1, 2, 3)).tolist() == [2, 3, 4]


@pytest.mark.parametrize("pooler", [MultiScaleRoIAlign(["0"], 7, 2), MultiScaleRoIPool(["0"], 7)])
def test_boxes_at_the_end_of_the_canvas_are_pooled_as_there(pooler: nn.Module) -> None:
    """One of less than a cell is pooled as of a whole one, which may go beyond the end."""
    plan: PoolPlan = plan_pooling(pooler, {"0": 8})
    canvases = Canvases(torch.tensor(CANVASES), PADDED)
    height, width = torch.tensor(CANVASES, dtype=torch.float32).unbind(1)
    boxes = torch.stack(
        [
            torch.stack((0 * width, 0 * height, width, height), 1),
            torch.stack((width - 20, height - 12, width, height), 1),
            torch.stack((width - 2, height - 1, width, height), 1),
            torch.stack((width - 9, height - 3, width - 7, height - 1), 1),
        ],
        dim=1,
    )
    level = features(4)
    image = torch.arange(3).repeat_interleave(4)
    found = pool_every_slot(
        plan, {"0": canvases.at_the_end(level).contiguous()}, boxes.flatten(0, 1), image, canvases.moved
    )
    for index in range(3):
        alone = {"0": within(level, index).contiguous()}
        expected = pool_every_slot(plan, alone, boxes[index], torch.zeros(4, dtype=torch.int64))
        torch.testing.assert_close(found.unflatten(0, (3, 4))[index], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_convolutions_that_are_one_kernel_with_what_follows_see_the_end_too(
    helpers: Any, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but an NVIDIA GPU has such kernels; here torch's own stand in for them."""
    config = helpers.small.model_copy(update={"backbone": backbone, **FEW})
    model = helpers.detector(config)
    graph = halve(model, torch.float32, fused=True)
    seen: list[str] = []
    compute = Canvases.__torch_function__

    def in_their_place(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.cudnn_convolution_relu, torch.cudnn_convolution_add_relu):
            seen.append(func.__name__)
            with pytest.raises(RuntimeError):  # but what it was given has been changed by then
                compute(self, func, types, args, kwargs)
            features, weight, *added, bias, stride, padding, dilation, groups = args
            answer = F.conv2d(features, weight, bias, stride, padding, dilation, groups)
            return F.relu(answer + added[0]) if added else F.relu(answer)
        return compute(self, func, types, args, kwargs)

    monkeypatch.setattr(Canvases, "__torch_function__", in_their_place)
    images = images_in(helpers)
    found = StaticEngine(graph).submit(images, np.array(VALID), np.full(len(VALID), 0.05, np.float32)).result()
    assert {*seen} == {"cudnn_convolution_relu", "cudnn_convolution_add_relu"}
    for index, one in enumerate(answers(EagerEngine(model), images)):
        assert_alike(found.of_image(index), one)
