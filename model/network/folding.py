"""Frozen batch norm as part of the convolution before it, while training: two passes over each activation less.

A frozen batch norm is a constant scale and shift of each channel, so conv(x, w) * s + t = conv(x, w * s) + t, and the
gradient of w is the same. Weights keep their names and values; only what `forward` computes is arranged otherwise.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d


class FoldedConv2d(nn.Conv2d):
    """A bias-free convolution that does its frozen batch norm's work too.

    The norm is held in a tuple, which keeps it out of the state_dict, and which copying a model takes along.
    """

    norm: tuple[FrozenBatchNorm2d]

    def forward(self, input: Tensor) -> Tensor:
        """float [B, C, H, W] -> float [B, C', H', W'], normalized."""
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.weight * scale.unflatten(0, (-1, 1, 1, 1))
        shift = norm.bias - norm.running_mean * scale
        return F.conv2d(input, weight, shift, self.stride, self.padding, self.dilation, self.groups)


class AbsorbedNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """A frozen batch norm whose work the convolution before it does."""

    def forward(self, x: Tensor) -> Tensor:
        """x as it is."""
        return x


def fold_frozen_batch_norm(model: nn.Module) -> int:
    """Lets every convolution that a frozen batch norm follows do its work, in place; returns how many did.

    Pairs are found by torchvision's names (conv1, bn1) in a ResNet's blocks and by order in a Sequential.
    """
    pairs = [pair for module in model.modules() for pair in _pairs(module)]
    for convolution, norm in pairs:
        convolution.__class__ = FoldedConv2d
        convolution.norm = (norm,)
        norm.__class__ = AbsorbedNorm
    return len(pairs)


def _pairs(module: nn.Module) -> list[tuple[Any, Any]]:
    children = dict(module.named_children())
    candidates: list[tuple[nn.Module | None, nn.Module]]
    if isinstance(module, nn.Sequential):
        candidates = list(pairwise(children.values()))
    else:
        candidates = [(children.get(f"conv{name[2:]}"), norm) for name, norm in children.items() if name[:2] == "bn"]
    return [
        (convolution, norm)
        for convolution, norm in candidates
        if type(convolution) is nn.Conv2d and type(norm) is FrozenBatchNorm2d and convolution.bias is None
    ]
