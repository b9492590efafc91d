"""Frozen batch norm inside the convolutions: the same answers, gradients and names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from model.network.build import build_model
from model.network.folding import AbsorbedNorm, FoldedConv2d, fold_frozen_batch_norm


def set_statistics(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "mobilenet_v3_small"])
def test_the_same_features_gradients_and_names(helpers: Any, backbone: str) -> None:
    torch.manual_seed(0)
    changes = {"backbone": backbone}
    if backbone.startswith("mobilenet"):
        changes |= {"anchor_sizes": ((32,),) * 3}
    plain = build_model(helpers.small.model_copy(update=changes)).backbone.body.double()
    set_statistics(plain)
    folded = copy.deepcopy(plain)
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in plain.modules())
    assert fold_frozen_batch_norm(folded) == norms > 10
    assert all(torch.equal(value, folded.state_dict()[name]) for name, value in plain.state_dict().items())
    assert plain.state_dict().keys() == folded.state_dict().keys()

    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for body in (plain, folded):
        sum(level.square().mean() for level in body(image).values()).backward()
    for (name, parameter), other in zip(plain.named_parameters(), folded.parameters(), strict=True):
        worst = (other.grad - parameter.grad).abs().max() / parameter.grad.abs().max()
        assert worst < 1e-7, name


def test_a_copy_folds_its_own_norms(helpers: Any) -> None:
    """An average of the weights is a copy of the model that goes its own way."""
    model = build_model(helpers.small).backbone.body
    fold_frozen_batch_norm(model)
    other = copy.deepcopy(model)
    before = model(torch.ones(1, 3, 64, 64))["3"]
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, AbsorbedNorm):
                module.bias.add_(1)
    assert torch.equal(model(torch.ones(1, 3, 64, 64))["3"], before)
    assert not torch.equal(other(torch.ones(1, 3, 64, 64))["3"], before)
    own = {id(module) for module in other.modules()}
    assert all(id(module.norm[0]) in own for module in other.modules() if isinstance(module, FoldedConv2d))


def test_folding_twice_changes_nothing(helpers: Any) -> None:
    model = build_model(helpers.small)
    assert fold_frozen_batch_norm(model) > 0
    assert fold_frozen_batch_norm(model) == 0
