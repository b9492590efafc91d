"""The average of the weights."""

import pytest
import torch

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from training.loop.ema import WeightAverage

SMALL = ArchitectureConfig(
    backbone="resnet18", norm="batch_norm", num_classes=3, fpn_channels=16, box_head_channels=16, mask_head_convs=(16,)
)
C4 = ArchitectureConfig.model_validate(SMALL.model_dump() | {"features": "c4", "anchor_sizes": ((32, 64),)})


@pytest.mark.parametrize(
    ("updates", "decay"),
    [
        pytest.param(0, 0.1, id="at first nearly the latest weights"),
        pytest.param(90, 0.91, id="rising"),
        pytest.param(10_000, 0.95, id="at its value"),
    ],
)
@pytest.mark.parametrize(
    "architecture", [pytest.param(SMALL, id="FPN"), pytest.param(C4, id="a stage that two heads share")]
)
def test_weights_and_statistics_are_averaged(architecture: ArchitectureConfig, updates: int, decay: float) -> None:
    model = build_model(architecture)
    average = WeightAverage(model, decay=0.95)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    average.update(model, updates)
    state = average.model.state_dict()
    assert {"backbone.body.bn1.running_var", "backbone.body.bn1.num_batches_tracked"} <= state.keys()
    for name, value in state.items():
        moved = 1 - decay if value.is_floating_point() else 1
        torch.testing.assert_close(value, before[name] + moved, rtol=0, atol=1e-6, msg=name)


def test_constant_weights_average_to_themselves() -> None:
    """To the last bit: frozen stages of a published model are those that it started from."""
    model = build_model(SMALL)
    average = WeightAverage(model, decay=0.99)
    for updates in range(3):
        average.update(model, updates)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in average.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
