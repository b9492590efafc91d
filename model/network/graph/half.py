"""A static graph whose backbone, FPN and heads compute in float16; boxes, scores, pooling and suppression stay float32.

Batch norms become part of the convolutions before them, weights are laid out channels-last, and on request cuDNN adds
bias, shortcut and ReLU in the convolution's own kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from model.network.graph.static import StaticGraph


def halve(model: FasterRCNN, dtype: torch.dtype = torch.float16, *, fused: bool = False) -> StaticGraph:
    """The model's static graph with weights of its own in `dtype`, in eval mode on the model's device.

    `fused` uses cuDNN's fused convolutions, which exist on NVIDIA GPUs alone. The model is not changed.
    """
    graph = StaticGraph(copy.deepcopy(model).eval()).eval()
    graph.requires_grad_(False)
    heads = graph.roi_heads
    parts = [graph.backbone, graph.rpn.head, heads.box_head, heads.box_predictor]
    if graph.has_masks:
        parts += [heads.mask_head, heads.mask_predictor]
    if graph.has_keypoints:
        parts += [heads.keypoint_head, heads.keypoint_predictor]
    for part in parts:
        fold_norms(part)
        part.to(dtype=dtype, memory_format=torch.channels_last)
        if fused:
            _fuse(part)
    graph.rpn.head = _SinglePrecisionAnswer(graph.rpn.head)
    graph.dtype, graph.layout = dtype, torch.channels_last
    return graph


def fold_norms(module: nn.Module) -> int:
    """Makes every batch norm in eval mode that follows a convolution a part of it, for good; returns how many.

    Pairs are found by torchvision's names (conv1, bn1) in a ResNet's blocks and by order in a Sequential.
    """
    found = [pair for parent in module.modules() for pair in _pairs(parent)]
    for parent, name, convolution, norm in found:
        weight, bias = norm.weight, norm.bias
        mean, variance = norm.running_mean, norm.running_var
        fused = fuse_conv_bn_weights(convolution.weight, convolution.bias, mean, variance, norm.eps, weight, bias)
        convolution.weight, convolution.bias = (nn.Parameter(part.detach(), requires_grad=False) for part in fused)
        setattr(parent, name, nn.Identity())
    return len(found)


def _pairs(parent: nn.Module) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    children = dict(parent.named_children())
    if isinstance(parent, nn.Sequential):
        candidates = [(first, name, second) for (_, first), (name, second) in pairwise(children.items())]
    else:
        candidates = [
            (children[f"conv{name[2:]}"], name, norm)
            for name, norm in children.items()
            if name.startswith("bn") and f"conv{name[2:]}" in children
        ]
    for convolution, name, norm in candidates:
        if type(convolution) is nn.Conv2d and isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d):
            yield parent, name, convolution, norm


class _SinglePrecisionAnswer(nn.Module):
    """An RPN head whose logits and deltas are given as float32: boxes are decoded from them."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = self.head(levels)
        return [level.to(torch.float32) for level in logits], [level.to(torch.float32) for level in deltas]


class _ConvReLU(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return torch.cudnn_convolution_relu(
            input, self.weight, self.bias, self.stride, _pads(self), self.dilation, self.groups
        )


class _FusedBlock(nn.Module):
    """A BasicBlock or Bottleneck of folded convolutions, each one kernel with what follows it."""

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self
        shortcut = x if block.downsample is None else block.downsample(x)
        last = block.conv2
        x = block.conv1(x)
        if isinstance(last, _ConvReLU):
            x, last = last(x), block.conv3
        return torch.cudnn_convolution_add_relu(
            x, last.weight, shortcut, 1.0, last.bias, last.stride, _pads(last), last.dilation, last.groups
        )


def _pads(convolution: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(convolution.padding, str), "torchvision gives numbers"
    return convolution.padding


def _fuse(module: nn.Module) -> None:
    """Blocks of ResNets, and convolutions before a ReLU in a Sequential."""
    for part in list(module.modules()):
        if isinstance(part, BasicBlock | Bottleneck) and isinstance(part.bn1, nn.Identity):
            inner = (part.conv1,) if isinstance(part, BasicBlock) else (part.conv1, part.conv2)
            for convolution in inner:
                convolution.__class__ = _ConvReLU
            part.__class__ = _FusedBlock
        elif isinstance(part, nn.Sequential):
            children = [(name, child) for name, child in part.named_children() if type(child) is not nn.Identity]
            for (_, convolution), (name, activation) in pairwise(children):
                if type(convolution) is nn.Conv2d and type(activation) is nn.ReLU:
                    convolution.__class__ = _ConvReLU
                    setattr(part, name, nn.Identity())
