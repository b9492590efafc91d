"""That a graph can be captured at all, seen without a GPU: on tensors that have a device, a shape and no values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from model.network.graph.half import halve
from model.network.graph.static import StaticGraph
from model.network.serving.engine import StaticEngine
from model.network.serving.packing import pack

FORBIDDEN = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.item.default", "aten.equal.default"}
"""What makes the host wait for values."""


class CaptureSafety(TorchDispatchMode):
    """Notes what a capture forbids: waiting for values, and copies between the host and the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        result = func(*args, **(kwargs or {}))
        inputs = {
            value.device.type for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor) and value.ndim
        }
        outputs = {value.device.type for value in tree_flatten(result)[0] if isinstance(value, Tensor)}
        if str(func) in FORBIDDEN or (inputs and len(inputs | outputs) > 1):
            self.found.append(f"{func}: {inputs} to {outputs}")
        return result


MORE: dict[str, dict[str, object]] = {
    "boxes": {},
    "masks": {"task": "masks"},
    "keypoints": {"task": "keypoints", "num_classes": 2},
    "grouped": {"task": "masks", "backbone": "resnext50_32x4d", "norm": "group_norm"},
    "five_channels": {"channels": 5, "image_mean": (0.4,) * 5, "image_std": (0.2,) * 5},
}
VARIANTS = (
    *("c4", "c4_boxes", "c4_bottleneck", "roi_pool", "softmax", "roi_pool_softmax_keypoints", "softmax_mlp"),
    *("agnostic", "mlp", "mlp_agnostic", "masks_keypoints"),
)
PARTS = ("masks_v2", "mobilenet", *MORE, *VARIANTS)
FLOAT32 = ("masks", "c4", "softmax_mlp", "masks_keypoints")
"""Of which float32 is looked at too."""


@pytest.mark.parametrize(
    ("part", "dtype"),
    [
        *(pytest.param(part, torch.float16, id=f"{part}, half") for part in PARTS),
        *(pytest.param(part, torch.float32, id=f"{part}, float32") for part in FLOAT32),
    ],
)
def test_no_architecture_asks_for_values_or_leaves_the_gpu(helpers: Any, part: str, dtype: torch.dtype) -> None:
    assert {*helpers.variants} == {*VARIANTS}, "all of them"
    parts = {**MORE, "masks_v2": {"task": "masks", **helpers.v2}, "mobilenet": helpers.mobilenet, **helpers.variants}
    config = ArchitectureConfig.model_validate({**helpers.small.model_dump(), **parts[part]})
    graph = halve(build_model(config).eval(), dtype)
    values = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    with FakeTensorMode(), CaptureSafety() as safety, torch.inference_mode():

        def on_gpu(value: Tensor) -> Tensor:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")

        inputs = (
            torch.empty(8, 128, 160, config.channels, dtype=torch.uint8, device="cuda"),
            torch.empty(8, 2, dtype=torch.int64, device="cuda"),
            torch.empty(8, device="cuda"),
            torch.empty(8, 2, dtype=torch.int64, device="cuda"),
        )
        outputs = functional_call(graph, {name: on_gpu(value) for name, value in values.items()}, inputs)
        packed = pack(outputs)
    assert safety.found == []
    assert safety.operations > 500
    assert packed.device.type == "cuda"
    assert [tuple(output.shape[:1]) for output in outputs] == [(8,)] * len(outputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_in_any_order_it_answers_what_its_kernels_do(helpers: Any) -> None:
    """Captures that share their memory, each replayed after the other."""
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks"})).to("cuda")
    engine = StaticEngine(halve(model))
    batches = [helpers.batch(*size, [size] * 2, seed=seed) for seed, size in enumerate([(128, 160), (64, 96)])]
    for number in (0, 1, 0, 1, 1, 0):
        batch, thresholds = batches[number], np.full(2, 0.1, np.float32)
        replayed = engine.run(batch.images, batch.sizes, thresholds)
        eager = engine.run_eagerly(batch.images, batch.sizes, thresholds)
        np.testing.assert_array_equal(replayed.scores, eager.scores)
        np.testing.assert_array_equal(replayed.boxes, eager.boxes)
        np.testing.assert_array_equal(replayed.masks, eager.masks)
    assert len(engine._captures) == 2


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_gpu_than_the_first_captures_and_answers(helpers: Any) -> None:
    model = helpers.detector(helpers.small).to("cuda:1")
    engine, batch = StaticEngine(StaticGraph(model)), helpers.batch(128, 160, [(128, 160)])
    replayed = engine.run(batch.images, batch.sizes, np.full(1, 0.1, np.float32))
    eager = engine.run_eagerly(batch.images, batch.sizes, np.full(1, 0.1, np.float32))
    assert engine.device == "cuda:1"
    assert len(replayed.scores) > 0
    np.testing.assert_array_equal(replayed.scores, eager.scores)
