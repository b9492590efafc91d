"""Learning rates over time, and what decays."""

import pytest
import torch
from torch import nn

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from training.config import OptimizerConfig, ScheduleConfig
from training.loop.optimization import make_optimizer, make_scheduler, rate_factor, restore_optimizer

STEP = ScheduleConfig(iterations=100, warmup=10, warmup_factor=0.1, decay="step", milestones=(60, 80), gamma=0.1)
COSINE = ScheduleConfig(iterations=110, warmup=10, warmup_factor=0.1, decay="cosine")


@pytest.mark.parametrize(
    ("schedule", "iteration", "factor"),
    [
        pytest.param(STEP, 0, 0.1, id="warm-up starts low"),
        pytest.param(STEP, 5, 0.55, id="half way up"),
        pytest.param(STEP, 10, 1.0, id="warmed up"),
        pytest.param(STEP, 59, 1.0, id="before the first step"),
        pytest.param(STEP, 60, 0.1, id="first step"),
        pytest.param(STEP, 99, 0.01, id="second step"),
        pytest.param(COSINE, 10, 1.0, id="cosine starts at the peak"),
        pytest.param(COSINE, 60, 0.5, id="cosine half way"),
        pytest.param(COSINE, 110, 0.0, id="cosine ends at zero"),
    ],
)
def test_rate(schedule: ScheduleConfig, iteration: int, factor: float) -> None:
    assert rate_factor(schedule, iteration) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_weights_decay(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    model[3].requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig.model_validate({"name": name, "rate": 0.1, "weight_decay": 0.5}))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {
        id(model[0].weight): 0.5,
        **{id(p): 0.0 for p in (model[0].bias, *model[1].parameters(), *model[2].parameters())},
    }


SMALL = ArchitectureConfig(
    backbone="resnet18", norm="batch_norm", num_classes=3, fpn_channels=16, box_head_channels=16, mask_head_convs=(16,)
)
C4 = ArchitectureConfig.model_validate(SMALL.model_dump() | {"features": "c4", "anchor_sizes": ((32, 64),)})
MOBILE = ArchitectureConfig.model_validate(
    SMALL.model_dump() | {"backbone": "mobilenet_v3_small", "anchor_sizes": ((32,),) * 3}
)


@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        pytest.param(
            SMALL,
            {
                "roi_heads.box_predictor.cls_score.weight": 0.1,
                "rpn.head.conv.0.0.weight": 0.1,
                "backbone.fpn.inner_blocks.0.0.weight": 0.1,
                "backbone.body.layer4.1.bn2.bias": 0.05,
                "backbone.body.layer3.0.conv1.weight": 0.025,
                "backbone.body.layer1.0.conv1.weight": 0.1 / 16,
                "backbone.body.conv1.weight": 0.1 / 32,
                "backbone.body.bn1.weight": 0.1 / 32,
            },
            id="stages of a ResNet",
        ),
        pytest.param(
            C4,
            {
                "roi_heads.box_head.layer4.1.conv2.weight": 0.05,
                "backbone.body.layer3.0.conv1.weight": 0.025,
                "rpn.head.conv.0.0.weight": 0.1,
            },
            id="a last stage that two heads share",
        ),
        pytest.param(
            MOBILE,
            {
                "backbone.body.12.0.weight": 0.05,
                "backbone.body.9.block.0.0.weight": 0.05,
                "backbone.body.8.block.0.0.weight": 0.025,
            },
            id="stages of a MobileNet begin at its strided blocks",
        ),
    ],
)
def test_the_rate_falls_with_the_distance_from_the_heads(
    architecture: ArchitectureConfig, rates: dict[str, float]
) -> None:
    model = build_model(architecture)
    optimizer = make_optimizer(model, OptimizerConfig(rate=0.1, layer_decay=0.5))
    found = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    names = dict(model.named_parameters(remove_duplicate=False))
    assert {name: found[names[name]] for name in rates} == pytest.approx(rates)
    assert set(found) == set(model.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    decays = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {decays[value] for name, value in names.items() if name.endswith("bias")} == {0.0}


@pytest.mark.parametrize(
    ("reference", "images", "rate"),
    [
        pytest.param(None, 8, 0.1, id="as it is"),
        pytest.param(16, 4, 0.025, id="fewer images"),
        pytest.param(16, 64, 0.4, id="more images"),
    ],
)
def test_the_rate_follows_the_images_of_a_step(reference: int | None, images: int, rate: float) -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), OptimizerConfig(rate=0.1, reference_batch=reference), images)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])


def test_scheduler_continues_from_its_state() -> None:
    def rates(
        scheduler: torch.optim.lr_scheduler.LambdaLR, optimizer: torch.optim.Optimizer, count: int
    ) -> list[float]:
        seen = []
        for _ in range(count):
            seen.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
        return seen

    def pair() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = make_optimizer(nn.Linear(2, 2), OptimizerConfig(rate=0.1))
        return optimizer, make_scheduler(optimizer, COSINE)

    optimizer, scheduler = pair()
    everything = rates(scheduler, optimizer, 30)
    first, first_scheduler = pair()
    start = rates(first_scheduler, first, 12)
    second, second_scheduler = pair()
    second.load_state_dict(first.state_dict())
    second_scheduler.load_state_dict(first_scheduler.state_dict())
    assert start + rates(second_scheduler, second, 18) == everything


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((False, torch.contiguous_format), (True, torch.channels_last), id="from a CPU to a GPU"),
        pytest.param((True, torch.channels_last), (False, torch.contiguous_format), id="from a GPU to a CPU"),
        pytest.param((True, torch.contiguous_format), (True, torch.channels_last), id="another layout"),
    ],
)
def test_an_optimizer_goes_on_with_other_kernels_and_layouts(
    name: str, before: tuple[bool, torch.memory_format], after: tuple[bool, torch.memory_format]
) -> None:
    """Momentum lies in the checkpoint as the weights lay that were trained then."""
    config = OptimizerConfig.model_validate({"name": name, "rate": 0.1})
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(4, 6, 5, 3, 3, generator=generator)

    def made(kind: tuple[bool, torch.memory_format]) -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(5, 6, 3, bias=False).to(memory_format=kind[1])
        return layer, make_optimizer(layer, config, fused=kind[0])

    def steps(layer: nn.Conv2d, optimizer: torch.optim.Optimizer, given: torch.Tensor) -> None:
        for gradient in given:
            layer.weight.grad = torch.empty_like(layer.weight).copy_(gradient)
            optimizer.step()

    whole, its_optimizer = made((False, torch.contiguous_format))
    steps(whole, its_optimizer, gradients)
    first, its_optimizer = made(before)
    steps(first, its_optimizer, gradients[:2])
    second, resumed = made(after)
    second.load_state_dict(first.state_dict())
    restore_optimizer(resumed, its_optimizer.state_dict())
    steps(second, resumed, gradients[2:])
    torch.testing.assert_close(second.weight, whole.weight, rtol=1e-5, atol=1e-6)
    assert resumed.param_groups[0]["fused"] is (True if after[0] else None)
