"""The optimizer and its learning rate over time."""

from __future__ import annotations

import math

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from training.config import OptimizerConfig, ScheduleConfig

NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> optim.Optimizer:
    """SGD or AdamW over the trainable parameters; biases and normalization layers do not decay."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (free if name == "bias" or isinstance(module, NORMALIZATION) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if config.name == "sgd":
        return optim.SGD(groups, lr=config.rate, momentum=config.momentum)
    return optim.AdamW(groups, lr=config.rate, betas=(config.momentum, 0.999))


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
