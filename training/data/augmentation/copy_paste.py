"""Simple copy-paste (Ghiasi et al., Simple Copy-Paste, arXiv 2012.07177, sec. 3): objects of one sample onto another.

Pixels are replaced without blending, which the paper found to be as good.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.augmentation.geometry import Sample, drop_outside, tighten


def paste(sample: Sample, other: Sample, top: int, left: int) -> Sample:
    """`sample` with every object of `other`, whose upper left corner lies at (top, left) of `sample`, may be outside.

    Both have masks. The size stays `sample`'s: what sticks out is cut off. What lies under a pasted object loses these
    pixels; boxes are the masks' own; an object without pixels goes. A visible keypoint becomes hidden (visibility 1)
    where the picture no longer shows its own image: under a pasted object, or beside the pasted pixels.
    """
    assert sample.masks is not None
    assert other.masks is not None
    height, width = sample.image.shape[-2:]
    rows, other_rows = _common(top, height, other.image.shape[-2])
    columns, other_columns = _common(left, width, other.image.shape[-1])

    pasted = other.masks.new_zeros((len(other.masks), height, width))
    pasted[:, rows, columns] = other.masks[:, other_rows, other_columns]
    covered = pasted.any(dim=0).bool()
    image = sample.image.clone()
    part = image[:, rows, columns]
    part.copy_(torch.where(covered[rows, columns], other.image[:, other_rows, other_columns], part))

    keypoints = None
    if sample.keypoints is not None and other.keypoints is not None:
        moved = other.keypoints + other.keypoints.new_tensor([left, top, 0])
        moved = drop_outside(torch.where(other.keypoints[..., 2:] > 0, moved, 0.0), height, width)
        keypoints = torch.cat([_hide(sample.keypoints, covered), _hide(moved, ~covered)])
    together = Sample(
        image,
        torch.cat([sample.boxes, other.boxes]),
        torch.cat([sample.labels, other.labels]),
        torch.cat([sample.masks.masked_fill(covered, 0), pasted]),
        keypoints,
    )
    return tighten(together)  # no box was moved: all of them are made anew


def _common(start: int, length: int, other_length: int) -> tuple[slice, slice]:
    """The pixels that 0..length and start..start + other_length share, counted from each one's own beginning."""
    first, last = max(start, 0), min(start + other_length, length)
    last = max(first, last)
    return slice(first, last), slice(first - start, last - start)


def _hide(keypoints: Tensor, where: Tensor) -> Tensor:
    """keypoints [N, K, 3]; visible ones on pixels of `where`, bool [H, W], become hidden ones."""
    height, width = where.shape
    x = keypoints[..., 0].long().clamp(0, width - 1)  # the image's far edges belong to its last pixels
    y = keypoints[..., 1].long().clamp(0, height - 1)
    hidden = where[y, x] & (keypoints[..., 2] > 1)
    return torch.cat([keypoints[..., :2], torch.where(hidden, 1.0, keypoints[..., 2])[..., None]], dim=-1)
