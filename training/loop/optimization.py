"""The optimizer and its learning rate over time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR

from training.config import OptimizerConfig, ScheduleConfig

NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, images: int | None = None, *, fused: bool = False
) -> optim.Optimizer:
    """SGD or AdamW over the trainable parameters; biases and normalization layers do not decay.

    `images` is the number that a step has, which the rate is scaled to. A `fused` one has one kernel for all weights,
    which by itself skips a step whose gradient overflowed: others make the host wait to learn whether it did.
    """
    rate = scaled_rate(config, images)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {(0, True): [], (0, False): []}
    seen: set[nn.Parameter] = set()
    stages = _backbone_stages(model)
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                decays = not (name == "bias" or isinstance(module, NORMALIZATION))
                depth = 0 if config.layer_decay == 1 else _depth(module_name, stages)
                groups.setdefault((depth, decays), []).append(parameter)
    options: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": rate * config.layer_decay**depth,
        }
        for (depth, decays), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]
    kernels = True if fused else None  # None is torch's choice
    if config.name == "sgd":
        return optim.SGD(options, lr=rate, momentum=config.momentum, fused=kernels)
    return optim.AdamW(options, lr=rate, betas=(config.momentum, 0.999), fused=kernels)


def restore_optimizer(optimizer: optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Loads the state_dict of an optimizer over the same parameters, on whatever device and in whatever layout it was.

    Which kernels compute stays as `optimizer` was made. Fused ones go through memory from its beginning to its end, so
    that each of an optimizer's tensors must lie there as its parameter does.
    """
    groups = [
        {**group, "fused": own["fused"]}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def scaled_rate(config: OptimizerConfig, images: int | None) -> float:
    """The peak rate of a step of `images`: linear in them where the rate is meant for a number (Goyal et al., 2017)."""
    if images is None or config.reference_batch is None:
        return config.rate
    return config.rate * images / config.reference_batch


def _backbone_stages(model: nn.Module) -> list[int]:
    """A MobileNet's blocks that begin a stage: the strided ones. Empty for a ResNet, whose stages have names."""
    body = getattr(getattr(model, "backbone", None), "body", nn.Module())
    return [int(name) for name, block in body.named_children() if name.isdecimal() and getattr(block, "_is_cn", False)]


def _depth(module: str, stages: list[int]) -> int:
    """Stages between a module and the heads: 0 for heads, RPN and FPN; 1 for a ResNet's layer4; 5 for its stem."""
    if stage := re.search(r"(?:body|_head)\.layer(\d)\b", module):
        return 5 - int(stage[1])
    if block := re.match(r"backbone\.body\.(\d+)\b", module):
        return 1 + sum(int(block[1]) < start for start in stages)
    return 5 if module.startswith("backbone.body.") else 0


def rate_factor(config: ScheduleConfig, iteration: int) -> float:
    """Share of the peak learning rate that iteration number `iteration` (from 0) uses."""
    warmup = 1.0
    if iteration < config.warmup:
        warmup = config.warmup_factor + (1 - config.warmup_factor) * iteration / config.warmup
    if config.decay == "cosine":
        progress = max(0, iteration - config.warmup) / max(1, config.iterations - config.warmup)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    passed = sum(iteration >= milestone for milestone in config.milestones)
    return float(warmup * config.gamma**passed)


def make_scheduler(optimizer: optim.Optimizer, config: ScheduleConfig) -> LambdaLR:
    """Linear warm-up, then steps or a cosine; step it once after every optimizer step."""
    return LambdaLR(optimizer, lambda iteration: rate_factor(config, iteration))
