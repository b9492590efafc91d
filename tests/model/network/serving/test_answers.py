"""What the engine answers with real graphs: the same as the dynamic one with trained weights, and right or again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.network.engine import EagerEngine
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.graph.static import StaticGraph
from model.network.serving.engine import StaticEngine
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from tests.service.harness import ROOT

SIZES = [(64, 96), (60, 90)]
FEW = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "detections_per_image": 8}
"""Little to compute."""


def test_trained_weights_answer_as_the_dynamic_graph_does() -> None:
    model = load_network(open_bundle(ROOT / "model" / "embedded" / "nuclei" / "1"))
    model.roi_heads.detections_per_img = 20  # each of its places costs time
    pixels = np.asarray(Image.open(ROOT / "model" / "samples" / "nuclei" / "stained.png").convert("RGB"))
    images, sizes = pixels[None, 64:160, 64:160], np.array([[96, 96]])
    expected = EagerEngine(model).run(images, sizes, np.full(1, 0.5, np.float32))
    assert len(expected.scores) > 5
    engine = StaticEngine(halve(model, torch.float32), exact=InferenceGraph(model).eval())
    answer = engine.run(images, sizes, np.full(1, 0.5, np.float32))
    assert engine.answered_again == {"overflow": 0, "inexact": 0}
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(answer.boxes, expected.boxes, atol=0.02)
    np.testing.assert_allclose(answer.masks, expected.masks, atol=2e-3)


@pytest.fixture(scope="module")
def model(helpers: Any) -> Any:
    return helpers.detector(helpers.small.model_copy(update={"task": "masks_keypoints", "num_classes": 2, **FEW}))


@pytest.mark.parametrize(
    ("part", "dtype", "factor"),
    [
        pytest.param("backbone", torch.float16, 3e4, id="half precision"),
        # Float32 overflows in the same way, and CPUs are quicker at it.
        *((part, torch.float32, 1e38) for part in ("backbone", "logits", "deltas", "boxes", "masks", "keypoints")),
    ],
)
def test_a_number_too_large_is_noticed_wherever_it_comes_up(
    helpers: Any, model: Any, part: str, dtype: torch.dtype, factor: float
) -> None:
    batch, thresholds = helpers.batch(64, 96, SIZES), np.full(2, 0.2, np.float32)
    graph = halve(model, dtype)
    rpn, heads = graph.rpn.head.head, graph.roi_heads
    layers: dict[str, Any] = {
        "backbone": graph.backbone.body.layer3[0].conv1,
        "logits": rpn.cls_logits,
        "deltas": rpn.bbox_pred,
        "boxes": heads.box_predictor.bbox_pred,
        "masks": heads.mask_predictor.conv5_mask,
        "keypoints": heads.keypoint_predictor.kps_score_lowres,
    }
    with torch.no_grad():
        layers[part].weight.mul_(factor)
    assert layers[part].weight.isfinite().all(), "what overflows are its answers"
    engine = StaticEngine(graph, exact=InferenceGraph(model).eval())
    answer = engine.run(batch.images, batch.sizes, thresholds)
    assert engine.answered_again == {"overflow": 2, "inexact": 0}
    expected = EagerEngine(model).run(batch.images, batch.sizes, thresholds)
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(answer.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(answer.masks, expected.masks, atol=1e-4)
    np.testing.assert_array_equal(answer.image_index, expected.image_index)


def test_only_the_image_that_overflows_is_flagged(model: Any) -> None:
    graph = StaticGraph(model)
    graph._pixels(torch.zeros(3, 64, 64, 3, dtype=torch.uint8), torch.full((3, 2), 64))
    answers = torch.full((6, 4, 5), 1e30)  # two rows of each image; their sum has room
    graph._look_at(answers)
    assert graph._finite.tolist() == [True] * 3
    answers[3, 1, 2] = -torch.inf
    graph._look_at(answers)
    assert graph._finite.tolist() == [True, False, True]
    answers[4, 0, 0], answers[4, 0, 1] = torch.inf, -torch.inf
    graph._look_at(answers)
    assert graph._finite.tolist() == [True, False, False]


def test_what_few_candidates_may_miss_is_answered_by_the_dynamic_graph(helpers: Any, model: Any) -> None:
    batch, thresholds = helpers.batch(64, 96, SIZES), np.full(2, 0.05, np.float32)
    engine = StaticEngine(StaticGraph(model, candidates=1), exact=InferenceGraph(model).eval())
    answer = engine.run(batch.images, batch.sizes, thresholds)
    assert 0 < engine.answered_again["inexact"] <= 2
    expected = EagerEngine(model).run(batch.images, batch.sizes, thresholds)
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(answer.boxes, expected.boxes, atol=1e-2)
