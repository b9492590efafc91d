"""Masks are trained as they are pasted: torchvision's own targets come out beside their place, and too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss, paste_masks_in_image, project_masks_on_boxes

from model.network.build import build_model
from model.network.heads import mask_targets, sigmoid_mask_loss

BOX = torch.tensor([[10.0, 14.0, 38.0, 35.0]])
FIRST = torch.tensor([0])


def disc(left: float = 10.0, top: float = 14.0) -> Tensor:
    """uint8 [1, 48, 56], an ellipse 28 wide and 21 high."""
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(56) + 0.5, indexing="ij")
    return (((x - left - 14) / 14) ** 2 + ((y - top - 10.5) / 10.5) ** 2 < 1).to(torch.uint8)[None]


def round_trip(make: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> tuple[Tensor, float]:
    """How far targets, once pasted, are off: their middle (y, x) in pixels, and their size; means over many places."""
    generator = torch.Generator().manual_seed(0)
    shifts, sizes = [], []
    for left, top in (8 + 8 * torch.rand(200, 2, generator=generator)).tolist():
        masks, box = disc(left, top), torch.tensor([[left, top, left + 28, top + 21]])
        pasted = paste_masks_in_image(make(masks, box, FIRST, 28)[:, None], box, (48, 56))[0, 0] > 0.5
        before, after = (torch.nonzero(mask).to(torch.float64) for mask in (masks[0], pasted))
        shifts.append(after.mean(0) - before.mean(0))
        sizes.append(len(after) / len(before))
    return torch.stack(shifts).mean(0), sum(sizes) / len(sizes)


def test_targets_pasted_give_the_masks_back() -> None:
    shift, size = round_trip(mask_targets)
    assert shift.abs().max() < 0.05
    assert size == pytest.approx(1, abs=0.01)
    shift, size = round_trip(project_masks_on_boxes)
    assert shift.max() < -0.4, "torchvision's targets would do as well"
    assert size > 1.05


def test_targets_are_shares_of_cells() -> None:
    """Each of them is a mean over a cell: nothing is lost, wherever the box lies."""
    masks = torch.zeros(2, 40, 40, dtype=torch.uint8)
    masks[1, 12:20, 10:26] = 1
    targets = mask_targets(masks, torch.tensor([[8.0, 9.0, 29.5, 24.0], [8.0, 9.0, 29.5, 24.0]]), torch.arange(2), 14)
    assert not targets[0].any()
    grown = 14 / 16
    cell = (21.5 + grown) * (15 + grown) / 14**2
    assert float(targets[1].sum()) * cell == pytest.approx(8 * 16, rel=0.02)


def test_the_loss_is_torchvisions_of_boxes_moved_and_grown() -> None:
    torch.manual_seed(0)
    targets = [{"masks": disc(), "labels": torch.tensor([2])}, {"masks": disc().flip(1), "labels": torch.tensor([1])}]
    rois = [BOX.repeat(3, 1) + torch.randn(3, 4), BOX + 1]
    matched = [torch.zeros(3, dtype=torch.int64), FIRST]
    logits = torch.randn(4, 3, 28, 28)
    ours = sigmoid_mask_loss(logits, rois, matched, targets)
    columns = ([target[name] for target in targets] for name in ("masks", "labels"))
    half = 28 / 30 / 2
    moved = torch.tensor([-half, -half, half, half]) - 0.5
    theirs = maskrcnn_loss(logits, [roi + moved for roi in rois], *columns, matched)
    torch.testing.assert_close(ours, theirs)


def test_without_positive_rois_the_loss_is_zero_and_has_a_gradient() -> None:
    logits = torch.zeros(0, 3, 28, 28, requires_grad=True)
    loss = sigmoid_mask_loss(logits, [BOX[:0]], [FIRST[:0]], [{"masks": disc(), "labels": torch.tensor([2])}])
    assert float(loss.detach()) == 0
    loss.backward()


@pytest.mark.parametrize("changes", [{"task": "masks"}, {"task": "masks_keypoints"}])
def test_detecting_is_torchvisions(helpers: Any, changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = build_model(helpers.small.model_copy(update=changes)).eval()
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 96)]
    with torch.inference_mode():
        ours = model(images)
        model.roi_heads.__class__ = RoIHeads
        theirs = model(images)
    assert sum(len(one["boxes"]) for one in ours) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
