"""Boxes under autocast: exact, far right in a wide image too, in everything that a network learns from."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from model.architecture import ArchitectureConfig
from model.network.build import Detector, build_model
from model.network.full_precision import keep_boxes_exact

FPN = ArchitectureConfig(
    backbone="resnet18",
    norm="batch_norm",
    num_classes=3,
    fpn_channels=16,
    box_head_channels=16,
    mask_head_convs=(16,),
    mask_predictor_channels=16,
    anchor_sizes=((22,), (46,), (64,), (128,), (256,)),
    rpn_post_nms_top_n_train=100,
    box_batch_size_per_image=64,
)
C4 = ArchitectureConfig.model_validate(
    FPN.model_dump() | {"features": "c4", "anchor_sizes": ((22, 46),), "box_batch_size_per_image": 16}
)
"""A stage of the ResNet computes each RoI, which takes long where the processor has no bfloat16."""
OBJECT = [1201.0, 10.0, 1223.0, 56.0]
"""xyxy in pixels. Its edges are no numbers of bfloat16, 1201 and 1223 lie between two multiples of 8."""


@dataclass
class Seen:
    """What a forward pass worked with: float [N, 4] each, and the RoIs' deltas [N, 4]."""

    anchors: Tensor
    rpn_targets: Tensor
    proposals: Tensor
    rois: Tensor
    roi_targets: Tensor
    losses: dict[str, Tensor]


def train(model: Detector, precision: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """One forward pass over an image of 64 x 1344 pixels with one object, with draws of its own seed."""
    found: dict[str, list[Tensor]] = {}
    anchors, targets = model.rpn.anchor_generator.forward, model.rpn.compute_loss
    select = model.roi_heads.select_training_samples

    def see_anchors(*arguments: object) -> list[Tensor]:
        found["anchors"] = anchors(*arguments)
        return found["anchors"]

    def see_targets(*arguments: list[Tensor]) -> object:
        found["rpn_targets"] = arguments[3]
        return targets(*arguments)

    def see_samples(proposals: list[Tensor], wanted: object) -> object:
        found["proposals"] = list(proposals)
        samples = select(proposals, wanted)
        found["rois"], found["roi_targets"] = samples[0], samples[3]
        return samples

    with monkeypatch.context() as patch:
        patch.setattr(model.rpn.anchor_generator, "forward", see_anchors)
        patch.setattr(model.rpn, "compute_loss", see_targets)
        patch.setattr(model.roi_heads, "select_training_samples", see_samples)
        torch.manual_seed(0)
        target = {
            "boxes": torch.tensor([OBJECT]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, 64, 1344, dtype=torch.uint8),
        }
        with torch.no_grad(), torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            losses = model([torch.rand(3, 64, 1344)], [target])
    return Seen(**{name: values[0] for name, values in found.items()}, losses=losses)


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [
        pytest.param(FPN, torch.bfloat16, id="FPN in bf16"),
        pytest.param(FPN, torch.float16, id="FPN in fp16"),
        pytest.param(C4, torch.bfloat16, id="C4 in bf16"),
    ],
)
def test_boxes_are_exact_under_autocast(
    architecture: ArchitectureConfig, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(architecture).train()
    keep_boxes_exact(model)
    full, mixed = train(model, None, monkeypatch), train(model, precision, monkeypatch)
    for boxes in (mixed.anchors, mixed.rpn_targets, mixed.proposals, mixed.rois, mixed.roi_targets):
        assert boxes.dtype == torch.float32
    # What follows from the image's size and the annotation alone is the same to the last bit.
    assert torch.equal(mixed.anchors, full.anchors)
    assert torch.equal(mixed.rpn_targets, full.rpn_targets)
    # The object is a proposal of itself. What the RoIs are to learn brings each one on it to its very edges.
    exact = torch.tensor(OBJECT)
    assert (mixed.rois == exact).all(1).any()
    decoded = model.roi_heads.box_coder.decode(mixed.roi_targets, [mixed.rois])[:, 0]
    on_it = (decoded - exact).abs().amax(1) < 1e-2
    assert int(on_it.sum()) >= 1
    decoded = model.rpn.box_coder.decode(mixed.rpn_targets, [mixed.anchors])[:, 0]
    near = (decoded - exact).abs().amax(1) < 1.0
    assert int(near.sum()) > 0
    torch.testing.assert_close(decoded[near], exact.expand(int(near.sum()), 4), rtol=0, atol=1e-2)
    # Proposals are decoded in float32: between multiples of 8 there are edges too.
    right = mixed.proposals[:, 2][mixed.proposals[:, 2] > 1024]
    assert (right != right.to(precision).float()).any()
    for loss in mixed.losses.values():
        assert loss.isfinite()


def test_nothing_changes_without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model(FPN).train()
    before = train(model, None, monkeypatch)
    names = list(model.state_dict())
    keep_boxes_exact(model)
    after = train(model, None, monkeypatch)
    assert list(model.state_dict()) == names
    assert all(torch.equal(loss, before.losses[name]) for name, loss in after.losses.items())
