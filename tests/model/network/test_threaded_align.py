"""RoIAlign in threads: bit for bit torchvision's, forward and backward."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from model.network.build import build_model
from model.network.threaded_align import ThreadedMultiScaleRoIAlign, align_in_threads

NAMES = ("0", "1", "2", "3")
SHAPES = [(128, 120), (100, 128), (128, 128)]


def features(dtype: torch.dtype = torch.float32) -> OrderedDict[str, Tensor]:
    torch.manual_seed(0)
    maps = {name: torch.randn(3, 5, 32 >> level, 32 >> level, dtype=dtype) for level, name in enumerate(NAMES)}
    return OrderedDict((name, value.requires_grad_(name != "2")) for name, value in maps.items())


def boxes() -> list[Tensor]:
    torch.manual_seed(1)
    corners = [torch.rand(count, 2, 2) * 128 for count in (40, 1, 0)]
    return [torch.cat((pair.amin(1), pair.amax(1) + 1), dim=1) for pair in corners]


@pytest.fixture(autouse=True)
def several_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_bits_forward_and_backward(layout: torch.memory_format, autocast: bool) -> None:
    plain = MultiScaleRoIAlign(list(NAMES), 7, 2)
    threaded = copy.deepcopy(plain)
    threaded.__class__ = ThreadedMultiScaleRoIAlign
    results = []
    for align in (plain, threaded):
        inputs = features(torch.bfloat16 if autocast else torch.float32)
        laid = {name: value.contiguous(memory_format=layout) for name, value in inputs.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pooled = align(laid, boxes(), SHAPES)
        pooled.backward(torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).view_as(pooled))
        results.append((pooled.detach(), [value.grad for value in inputs.values()]))
    (expected, expected_grads), (pooled, grads) = results
    assert len(pooled) == 41
    assert torch.equal(pooled, expected)
    for name, ours, theirs in zip(NAMES, grads, expected_grads, strict=True):
        assert (ours is None) == (theirs is None) == (name == "2")
        if ours is not None:
            assert torch.equal(ours, theirs), name


def test_evaluation_and_single_images_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    align = MultiScaleRoIAlign(list(NAMES), 7, 2)
    align.__class__ = ThreadedMultiScaleRoIAlign
    monkeypatch.setattr("model.network.threaded_align._ByImage", None)  # using it would fail
    align.eval()
    assert align(features(), boxes(), SHAPES).shape == (41, 5, 7, 7)
    align.train()
    one = {name: value[:1] for name, value in features().items()}
    assert align(one, boxes()[:1], SHAPES[:1]).shape == (40, 5, 7, 7)


def test_a_model_trains_as_before(helpers: Any) -> None:
    model = build_model(helpers.small.model_copy(update={"task": "masks", "norm": "group_norm"}))
    other = copy.deepcopy(model)
    assert align_in_threads(other) == 2
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:50, 8:40] = 1
    target = {"boxes": torch.tensor([[8.0, 10, 40, 50]]), "labels": torch.tensor([1]), "masks": masks}
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    gradients = []
    for network in (model, other):
        torch.manual_seed(3)
        sum(network(images, [target, target]).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert all(torch.equal(gradients[0][name], value) for name, value in gradients[1].items())
    assert list(other.state_dict()) == list(model.state_dict())
