"""The paper's variants: exported as they answer, trained, loadable into torchvision, refused where impossible."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_pool

from model.architecture import ArchitectureConfig, Task
from model.network.build import Detector, build_model
from model.network.exporting.export import export_onnx
from model.network.exporting.quantize import quantize_int8
from model.network.exporting.torchscript import export_torchscript
from model.network.heads import MultiScaleRoIPool, softmax_mask_loss
from model.network.weights import load_network
from model.runtime.bundles.bundle import publish_bundle
from model.runtime.bundles.manifest import ManifestDraft, Provenance
from model.runtime.engines.engine import Engine, FloatPrecision
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.torchscript import TorchScriptEngine
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from tests.model.network.exporting.constants import assert_nothing_known_is_computed

EXPORTED = ("c4", "mlp_agnostic", "roi_pool_softmax_keypoints")
"""Few that have each part between them: to trace a network takes longest. Masks and keypoints with RoIAlign are in
tests/training/test_masks_keypoints.py, where what is exported is compared too."""
SIXTEEN_CHANNELS = {"channels": 16, "image_mean": (0.45,) * 16, "image_std": (0.225,) * 16}
"""The most that a network takes; one of those that are exported takes them."""
CLOSE = {"pixels": 2e-2, "probability": 1e-3, "order": False}


Exports = Callable[[str], tuple[ArchitectureConfig, Detector, Path]]


@pytest.fixture(scope="module")
def exports(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Of a variant's name: what it is, the network, and the ONNX file, alone in its folder."""

    @cache
    def export(variant: str) -> tuple[ArchitectureConfig, Detector, Path]:
        channels = SIXTEEN_CHANNELS if variant == "roi_pool_softmax_keypoints" else {}
        config = helpers.small.model_copy(update={**helpers.variants[variant], **channels})
        path = tmp_path_factory.mktemp(variant) / "model.onnx"
        model = helpers.detector(config)
        export_onnx(model, path)
        return config, model, path

    return export


@pytest.mark.parametrize("variant", EXPORTED)
def test_the_exported_networks_answer_as_torchvision(
    helpers: Any, exports: Exports, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, model, path = exports(variant)
    export_torchscript(model, tmp_path / "model.torchscript.pt")
    engines: list[Engine] = [
        OnnxEngine(path, config.task, "cpu", 1),
        TorchScriptEngine(tmp_path / "model.torchscript.pt", config.task, "cpu", 1),
    ]
    if find_spec("openvino") is not None:
        engines.append(_openvino(path, config.task))
    for height, width, sizes in ((96, 160, [(96, 160)]), (128, 96, [(128, 90), (110, 96), (128, 96)])):
        batch = helpers.batch(height, width, sizes, channels=config.channels)
        expected = helpers.torchvision_answer(model, batch, 0.25)
        for engine in engines:
            ours = engine.run(batch.images, batch.sizes, np.full(len(sizes), 0.25, np.float32))
            assert len(ours.boxes) >= len(sizes), "the test needs detections to compare"
            helpers.assert_same_answer(ours, expected, **CLOSE)
    for engine in engines:
        engine.close()


def _openvino(file: Path, task: Task, precision: FloatPrecision = "f32") -> Engine:
    from model.runtime.engines.openvino import OpenVinoEngine

    engine: Engine = OpenVinoEngine(file, task, "cpu", 1, precision)
    return engine


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        ("roi_pool_softmax_keypoints", "int8"),
        ("roi_pool_softmax_keypoints", "bf16"),
        ("c4", "bf16"),  # of its INT8 see why_no_int8_by_openvino
    ],
)
def test_openvino_rounds_as_little_as_others_do(
    helpers: Any, exports: Exports, variant: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a coarser network's detections has the float32 network's of the same label near it, mostly."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, _, path = exports(variant)
    batch = helpers.batch(96, 160, [(96, 160), (90, 150)], channels=config.channels)
    if precision == "bf16":
        from model.runtime.engines.openvino import CAPABILITIES

        if "BF16" not in CAPABILITIES:
            pytest.skip("this processor does not compute in bfloat16")
        engine = _openvino(path, config.task, "bf16")
    else:
        quantize_int8(path, tmp_path / "int8.onnx", [(batch.images, batch.sizes)])
        engine = _openvino(tmp_path / "int8.onnx", config.task)
    thresholds = np.full(2, 0.25, np.float32)
    exact, ours = (
        one.run(batch.images, batch.sizes, thresholds) for one in (OnnxEngine(path, config.task, "cpu", 1), engine)
    )
    assert len(exact.scores) > 10
    assert not np.array_equal(exact.scores, ours.scores), "it computed in float32"
    same = (exact.image_index[:, None] == ours.image_index) & (exact.labels[:, None] == ours.labels)
    distance = np.abs(exact.boxes[:, None] - ours.boxes).max(axis=2)
    assert (same & (distance < 4)).any(axis=1).mean() > 0.6
    engine.close()


@pytest.mark.parametrize("variant", EXPORTED)
def test_the_exported_networks_compute_nothing_that_is_known(exports: Exports, variant: str, tmp_path: Path) -> None:
    _, model, path = exports(variant)
    assert_nothing_known_is_computed(path, set(model.state_dict()), tmp_path)


def target(side: int = 96) -> dict[str, torch.Tensor]:
    masks = torch.zeros(2, side, side, dtype=torch.uint8)
    masks[0, 10:50, 10:60] = 1
    masks[1, 40:90, 50:90] = 1
    boxes = torch.tensor([[10.0, 10, 60, 50], [50, 40, 90, 90]])
    keypoints = torch.tensor([[[20.0, 20, 2], [40, 30, 2], [30, 45, 1]], [[60, 50, 2], [80, 60, 2], [70, 80, 0]]])
    return {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": keypoints}


@pytest.mark.parametrize("variant", ["c4", "roi_pool", "softmax", "softmax_mlp", "agnostic", "mlp", "masks_keypoints"])
def test_every_part_of_a_variant_learns(helpers: Any, variant: str) -> None:
    torch.manual_seed(0)
    model = build_model(helpers.small.model_copy(update={"norm": "group_norm", **helpers.variants[variant]}))
    losses = model([torch.rand(3, 96, 96), torch.rand(3, 96, 96)], [target(), target()])
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "loss_mask"}
    assert set(losses) == expected | ({"loss_keypoint"} if variant == "masks_keypoints" else set())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("variant", ["masks_keypoints", "c4", "softmax"])
def test_variants_learn_channels_last(helpers: Any, variant: str) -> None:
    torch.manual_seed(0)
    model = build_model(helpers.small.model_copy(update=helpers.variants[variant]))
    model.to(memory_format=torch.channels_last)
    sum(model([torch.rand(3, 96, 96)], [target()]).values()).backward()


def test_a_step_along_the_gradient_lowers_the_softmax_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 14, 14, requires_grad=True)
    rois, matched = [torch.tensor([[10.0, 10, 60, 50], [12, 8, 55, 52], [48, 40, 92, 88]])], [torch.tensor([0, 0, 1])]
    targets = [{**target(), "labels": torch.tensor([3, 1])}]
    before = softmax_mask_loss(logits, rois, matched, targets)
    (gradient,) = torch.autograd.grad(before, logits)
    assert softmax_mask_loss(logits - 10 * gradient, rois, matched, targets) < before
    assert softmax_mask_loss(logits[:0], [rois[0][:0]], [matched[0][:0]], targets) == 0


def test_the_softmax_loss_pixel_by_pixel() -> None:
    """RoIs that are the objects' own boxes in whole cells: each cell is inside or outside."""
    torch.manual_seed(1)
    side = 4
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, 4:12, 4:8] = 1  # the left half of the box below
    rois = [torch.tensor([[4.0, 4, 12, 12]])]
    logits = torch.randn(1, 3, side, side)
    loss = softmax_mask_loss(logits, rois, [torch.tensor([0])], [{"masks": masks, "labels": torch.tensor([2])}])
    probabilities = logits.softmax(1)[0]
    pixels = [-float(probabilities[2 if x < side // 2 else 0, y, x].log()) for y in range(side) for x in range(side)]
    assert float(loss) == pytest.approx(sum(pixels) / len(pixels), rel=1e-5)


def test_roi_pool_takes_each_box_from_its_level() -> None:
    torch.manual_seed(0)
    features = {str(level): torch.randn(2, 3, 64 // 2**level, 64 // 2**level) for level in range(4)}
    boxes = [torch.tensor([[0.0, 0, 30, 30], [10, 10, 250, 250]]), torch.tensor([[5.0, 7, 120, 130]])]
    pooled = MultiScaleRoIPool(["0", "1", "2", "3"], 7)(features, boxes, [(256, 256), (256, 200)])
    # FPN, eq. 1, with k0 = 4 for 224 pixels and levels 2 to 5: sides of 30, 240 and 119 pixels
    for row, (image, box, level) in enumerate([(0, boxes[0][0], 0), (0, boxes[0][1], 2), (1, boxes[1][0], 1)]):
        roi = torch.cat((torch.tensor([float(image)]), box))[None]
        assert torch.equal(pooled[row], roi_pool(features[str(level)], roi, 7, 1 / (4 * 2**level))[0])
    empty = MultiScaleRoIPool(["0", "1", "2", "3"], 7)(features, [torch.zeros(0, 4)] * 2, [(256, 256)] * 2)
    assert empty.shape == (0, 3, 7, 7)
    fewer = {"0": features["2"], "1": features["2"], "pool": features["3"]}  # a MobileNet's levels have one stride
    pooled = MultiScaleRoIPool(["0", "1", "2", "3"], 7)(fewer, boxes, [(256, 256), (256, 200)])
    rois = torch.cat((torch.tensor([[0.0], [0.0], [1.0]]), torch.cat(boxes)), dim=1)
    assert torch.equal(pooled, roi_pool(features["2"], rois, 7, 1 / 16))


def test_c4_weights_load_into_torchvisions_own_parts(helpers: Any) -> None:
    config = helpers.small.model_copy(update=helpers.variants["c4"])
    ours = build_model(config)
    resnet = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = nn.Module()
    backbone.body = IntermediateLayerGetter(resnet, {"layer3": "0"})
    backbone.out_channels = 256
    theirs = MaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(config.anchor_sizes, (config.anchor_aspect_ratios,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=nn.Sequential(OrderedDict(layer4=resnet.layer4)),
        box_predictor=FastRCNNPredictor(512, config.num_classes),
        mask_head=nn.Sequential(OrderedDict(layer4=resnet.layer4)),
        mask_predictor=MaskRCNNPredictor(512, config.mask_predictor_channels, config.num_classes),
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_the_fifth_stage_keeps_the_size_of_a_roi(helpers: Any) -> None:
    for name, channels in (("resnet18", 256), ("resnet50", 1024)):
        model = build_model(helpers.small.model_copy(update={**helpers.variants["c4"], "backbone": name}))
        assert model.roi_heads.mask_head(torch.rand(2, channels, 7, 7)).shape == (2, 2 * channels, 7, 7)
        assert model.backbone(torch.rand(1, 3, 64, 96))["0"].shape == (1, channels, 4, 6)
        assert model.roi_heads.box_head.layer4 is model.roi_heads.mask_head.layer4


def test_agnostic_masks_are_one_for_all_classes(helpers: Any) -> None:
    model = build_model(helpers.small.model_copy(update=helpers.variants["agnostic"]))
    predictor = model.roi_heads.mask_predictor
    assert predictor.mask_fcn_logits.out_channels == 1
    logits = predictor(torch.rand(2, 32, 14, 14))
    assert logits.shape == (2, 5, 28, 28)
    assert torch.equal(logits[:, 0], logits[:, 4])


def test_a_shared_stage_is_read_back_from_the_network_alone(exports: Exports, tmp_path: Path) -> None:
    """A bundle without weights.pth: its network holds the weights of both heads once."""
    config, model, path = exports("c4")
    draft = ManifestDraft(
        architecture=config,
        class_names=tuple("abcd"),
        preprocessing=Preprocessing.from_architecture(config),
        provenance=Provenance(dataset="none", license="none"),
    )
    bundle = publish_bundle(path.parent, draft, tmp_path / "models", "c4")
    # Its masks have 14 pixels a side, an FPN's 28: the runtime takes both.
    [answer] = Predictor.of_bundle(bundle, threads=1).predict([np.full((80, 100, 3), 90, np.uint8)], 0.0)
    assert answer.masks is not None
    assert {mask.size for mask in answer.masks} == {(80, 100)}
    state = load_network(bundle).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"features": "c4"}, "C4 has 1 feature levels", id="c4 has one level of anchors"),
        pytest.param(
            {"features": "c4", "anchor_sizes": [[32]], "backbone": "mobilenet_v3_large"},
            "ResNet",
            id="c4 on a MobileNet",
        ),
        pytest.param({"features": "c4", "anchor_sizes": [[32]], "task": "keypoints"}, "fpn", id="keypoints on c4"),
        pytest.param({"features": "c4", "anchor_sizes": [[32]], "mask_head": "mlp"}, "fifth stage", id="mlp on c4"),
        pytest.param({"mask_loss": "softmax", "mask_classes": "agnostic"}, "choose one", id="one class cannot compete"),
        pytest.param({"mask_head": "mlp", "mask_head_norm": True}, "mask_head_norm", id="norm in an mlp"),
    ],
)
def test_contradictions_are_refused_before_anything_is_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArchitectureConfig.model_validate(fields)
