"""From a bundle to an engine that has shown what it computes, or the reason why there is none."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.engine import EagerEngine
from model.network.graph.half import halve
from model.network.graph.static import StaticGraph
from model.network.serving import starting
from model.network.serving.checking import check_engine
from model.network.serving.place import Host
from model.runtime.bundles.bundle import Bundle, ManifestDraft, Provenance, publish_bundle
from model.runtime.bundles.manifest import Trades
from model.runtime.engines.engine import EngineError, Unavailable
from model.runtime.engines.loading import load_engine
from model.runtime.preprocess import Preprocessing
from tests.model.network.serving.answering import engine_of
from tests.model.runtime.conftest import tiny_network

SEEN = Preprocessing(min_size=64, max_size=64)
SIZE = (64, 64)
CHANGES = {"task": "masks", "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "detections_per_image": 8}
"""Of the small model, to leave little to compute."""


@pytest.fixture(scope="module")
def model(helpers: Any) -> Any:
    return helpers.detector(helpers.small.model_copy(update=CHANGES))


@pytest.fixture
def publish(tmp_path: Path, helpers: Any, model: Any) -> Callable[..., Bundle]:
    """A bundle whose network nothing here runs: of its files the weights alone are read."""

    def of(**changes: Any) -> Bundle:
        folder = tmp_path / "staging"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(tiny_network("masks"))
        if changes.pop("weights", True):
            torch.save(model.state_dict(), folder / "weights.pth")
        draft = ManifestDraft(
            architecture=helpers.small.model_copy(update=CHANGES),
            class_names=("a", "b", "c", "d"),
            preprocessing=SEEN,
            provenance=Provenance(dataset="generated", license="CC0-1.0"),
            **changes,
        )
        return publish_bundle(folder, draft, tmp_path / "repository", "small")

    return of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_graph_that_computes_what_it_should_is_taken(model: Any, dtype: torch.dtype) -> None:
    check_engine(engine_of(model, SEEN, halve(model, dtype)), StaticGraph(model).eval(), SIZE)


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        pytest.param("backbone.body.layer2.0.conv2", 0.5, id="half as much"),
        pytest.param("roi_heads.box_head.fc6", float("nan"), id="not a number"),
        pytest.param("roi_heads.mask_head.0.0", 0.0, id="nothing"),
    ],
)
def test_a_layer_that_computes_something_else_is_named(model: Any, part: str, damage: float) -> None:
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.get_submodule(part).weight.mul_(damage)
    with pytest.raises(
        EngineError, match=r"on cpu the network is not what it is in float32: .*(level|head|classes).* by "
    ):
        check_engine(engine_of(wrong, SEEN, halve(wrong, torch.bfloat16)), StaticGraph(model).eval(), SIZE)


def test_layers_are_compared_in_the_devices_turn_and_what_they_are_compared_with_is_not(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine may be answering there, or capturing."""
    engine, reference = engine_of(model, SEEN), StaticGraph(copy.deepcopy(model)).eval()
    place, held = engine._place, [0]
    turn = place.turn

    @contextmanager
    def counted() -> Iterator[None]:
        with turn():
            held[0] += 1
            yield
            held[0] -= 1

    monkeypatch.setattr(place, "turn", counted)
    turns: dict[str, set[bool]] = {"engine": set(), "reference": set()}
    for name, graph in (("engine", engine.graph), ("reference", reference)):
        for part in (graph.backbone, graph.roi_heads.box_head, graph.roi_heads.mask_head):
            part.register_forward_pre_hook(lambda *_, name=name: turns[name].add(held[0] > 0))
    check_engine(engine, reference, SIZE)
    assert turns == {"engine": {True}, "reference": {False}}


def test_an_image_whose_place_in_the_batch_tells_is_refused(model: Any) -> None:
    graph = halve(model, torch.float32)

    def mixed(images: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        return graph(images.cummax(0).values, *more)

    with pytest.raises(EngineError, match="answered otherwise when it is computed 1 places further in its batch of 2"):
        check_engine(engine_of(model, SEEN, graph, mixed), StaticGraph(model).eval(), SIZE)


@pytest.mark.parametrize("place", range(3))
def test_every_place_of_a_batch_is_looked_at(model: Any, place: int) -> None:
    graph = halve(model, torch.float32)

    def one_is_wrong(images: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        images = images.clone()
        images[place] //= 3
        return graph(images, *more)

    engine = engine_of(model, SEEN, graph, one_is_wrong, batch_size=3)
    with pytest.raises(EngineError, match="1 places further in its batch of 3"):
        check_engine(engine, StaticGraph(model).eval(), SIZE)


def test_layers_are_compared_as_the_kernels_of_a_whole_batch_compute_them(model: Any) -> None:
    engine = engine_of(model, SEEN, batch_size=3)
    batches: set[int] = set()
    engine.graph.backbone.body.register_forward_pre_hook(lambda _, inputs: batches.add(len(inputs[0])))
    check_engine(engine, StaticGraph(copy.deepcopy(model)).eval(), SIZE)
    assert batches == {3}


WHEN_CAPTURED, LATER = 3, 5
"""The run that is another, after one that is captured and those that it is compared by."""
REFUSED = {
    WHEN_CAPTURED: "a replayed batch of 2 of 64x64 is not what its kernels compute one by one",
    LATER: "answered otherwise when it is computed kernel by kernel",
}


@pytest.mark.parametrize("when", REFUSED)
def test_a_replay_that_is_not_what_was_captured_is_refused(model: Any, when: int) -> None:
    graph = halve(model, torch.float32)
    runs = [0]

    def aging(images: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        runs[0] += 1
        return graph(images if runs[0] < when else images // 3, *more)

    with pytest.raises(EngineError, match=REFUSED[when]):
        check_engine(engine_of(model, SEEN, graph, aging), StaticGraph(model).eval(), SIZE)


@pytest.mark.parametrize("when", REFUSED)
@pytest.mark.parametrize("task", ["masks", "masks_keypoints"])
def test_a_replay_whose_maps_alone_are_others_is_refused(helpers: Any, task: str, when: int) -> None:
    """Boxes and scores are right: each detection has the mask, or the heatmaps, of another."""
    changes = {**CHANGES, "task": task, **({"num_classes": 2} if task == "masks_keypoints" else {})}
    model = helpers.detector(helpers.small.model_copy(update=changes))
    graph = halve(model, torch.float32)
    runs = [0]

    def aging(images: Tensor, *more: Tensor | None) -> tuple[Tensor, ...]:
        runs[0] += 1
        *others, maps = graph(images, *more)
        return (*others, maps if runs[0] < when else maps.roll(1, 1))

    with pytest.raises(EngineError, match=REFUSED[when]):
        check_engine(engine_of(model, SEEN, graph, aging), StaticGraph(model).eval(), SIZE)


def test_no_weights_are_left_for_the_collector_of_garbage(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks for none until it is ready, and never again among what there is then."""
    kept: list[weakref.ref[Tensor]] = []

    def check(engine: Any, reference: StaticGraph, size: object) -> None:
        kept.extend(map(weakref.ref, reference.parameters()))

    monkeypatch.setattr(starting, "check_engine", check)
    gc.collect()
    gc.disable()
    try:
        engine = starting.start_at(Host(), copy.deepcopy(model), SEEN, "f32", 1)
        assert len(kept) > 20
        assert [one for one in kept if one() is not None] == [], "what it was compared with"
        kept = [weakref.ref(part) for graph in (engine.graph, engine._again.exact) for part in graph.parameters()]
        assert all(one() is not None for one in kept)
        engine.close()
        del engine
        assert [one for one in kept if one() is not None] == [], "its own"
    finally:
        gc.enable()


@pytest.fixture
def shortcuts() -> Iterator[list[tuple[Any, str]]]:
    """Settings of torch, taken, by which it computes in fewer bits than it says."""
    products = ("allow_tf32", "allow_fp16_reduced_precision_reduction")
    found = [(torch.backends.cudnn, "allow_tf32"), *((torch.backends.cuda.matmul, name) for name in products)]
    before = [getattr(owner, name) for owner, name in found]
    for owner, name in found:
        setattr(owner, name, True)
    yield found
    for (owner, name), value in zip(found, before, strict=True):
        setattr(owner, name, value)


def test_a_bundle_becomes_an_engine_on_the_device_that_is_named(
    publish: Callable[..., Bundle], model: Any, shortcuts: list[tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def place(index: int, name: str) -> Host:
        asked.append((index, name))
        return Host()

    monkeypatch.setattr(starting, "Gpu", place)
    monkeypatch.setattr(starting, "why_no_gpu", lambda index: None)
    bundle = publish()
    batch = (np.full((1, 64, 64, 3), 99, np.uint8), np.array([SIZE]), np.full(1, 0.1, np.float32))
    for device in ("auto", "cuda", "cuda:3"):
        engine = load_engine(bundle, "cuda", device, precision="f32", batch_size=1)
        expected, found = EagerEngine(model).run(*batch), engine.run(*batch)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        engine.close()
    assert asked == [(0, "cuda"), (0, "cuda"), (3, "cuda:3")]
    assert [getattr(owner, name) for owner, name in shortcuts] == [False] * 3, "sums are float32"
    with pytest.raises(Unavailable, match="computes in f16 and f32"):
        load_engine(bundle, "cuda", "cuda", precision="bf16")


def test_weights_in_int8_alone_are_refused(publish: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "why_no_gpu", lambda index: None)
    bundle = publish(weights=False, trades=Trades(int8=True, ap_deltas={"mask/AP": 0.0}))
    with pytest.raises(Unavailable, match="has its weights in INT8 alone"):
        load_engine(bundle, "cuda", "cuda")


def test_torchvision_for_cpus_alone_is_found_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object) -> None:
        raise NotImplementedError("Could not run 'torchvision::nms' on the 'CUDA' backend.\nThis could be because")

    compute = starting._compute_on
    compute(torch.device("cpu"))
    for owner, name in ((torch.backends.cuda, "is_built"), (torch.cuda, "is_available")):
        monkeypatch.setattr(owner, name, lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(starting, "_compute_on", lambda device: compute(torch.device("cpu")))
    monkeypatch.setattr(torch.ops.torchvision, "nms", no_kernel)
    starting._why_no_gpu.cache_clear()
    try:
        assert starting.why_no_gpu(0) == (
            "torch cannot compute on it: Could not run 'torchvision::nms' on the 'CUDA' backend."
        )
    finally:
        starting._why_no_gpu.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_without_a_gpu_it_says_so_and_computes_nowhere_else(publish: Callable[..., Bundle], device: str) -> None:
    with pytest.raises(
        Unavailable,
        match=rf"'{device}' was asked for, but (torch sees|this torch).*; choose the onnx engine, or another GPU$",
    ):
        load_engine(publish(), "cuda", device)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_is_full_for_a_moment_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    errors: list[Exception | None] = [error, None]

    def compute(*_: object) -> Any:
        if (error := errors.pop(0)) is not None:
            raise error
        return torch.zeros(0)

    starting._why_no_gpu.cache_clear()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    on_the_cpu = starting._compute_on
    monkeypatch.setattr(starting, "_compute_on", lambda device: on_the_cpu(torch.device("cpu")))
    monkeypatch.setattr(torch.ops.torchvision, "nms", compute)
    try:
        assert starting.why_no_gpu(0) == f"its memory is full: {error}"
        assert starting.why_no_gpu(0) is None
        assert errors == []
    finally:
        starting._why_no_gpu.cache_clear()
