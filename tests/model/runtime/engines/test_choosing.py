"""Nobody is made slower than ONNX Runtime by an engine that was chosen for him."""

from __future__ import annotations

from collections.abc import Set
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.runtime.bundles.bundle import ManifestDraft, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, PrecisionChoice, Trades
from model.runtime.engines import choosing, devices, loading
from model.runtime.engines.choosing import choose_engine
from model.runtime.engines.engine import EngineKind, Unavailable
from model.runtime.engines.loading import choose_devices, why_no_cuda_engine
from tests.model.runtime.engines.test_precision import OLD, VNNI, measured

BOTH = VNNI | {"avx512_bf16"}


@pytest.mark.parametrize(
    ("wanted", "features", "on_cpu", "installed", "chosen", "why"),
    [
        pytest.param("f32", BOTH, True, True, "onnx", "gains too little in f32", id="float32"),
        pytest.param("int8", VNNI, True, True, "openvino", "faster in int8 with avx512_vnni", id="INT8"),
        pytest.param("auto", VNNI, True, True, "openvino", "faster in int8 with avx512_vnni", id="INT8 by itself"),
        pytest.param("int8", {"avx512_bf16"}, True, True, "onnx", "too little in int8", id="INT8 without instructions"),
        pytest.param("bf16", BOTH, True, True, "openvino", "faster in bf16 with avx512_bf16", id="bfloat16"),
        pytest.param("int8", OLD, True, True, "onnx", "no instructions", id="AVX2 alone"),
        pytest.param("auto", frozenset(), True, True, "onnx", "no instructions", id="a processor that is not known"),
        pytest.param("auto", VNNI, False, True, "cuda", "as there is a GPU", id="a GPU"),
        pytest.param("f32", OLD, False, True, "cuda", "as there is a GPU", id="float32 on a GPU"),
        pytest.param("int8", VNNI, False, True, "onnx", "does not compute in int8", id="INT8 on a GPU"),
        pytest.param("auto", VNNI, True, False, "onnx", "openvino is not installed", id="not installed"),
    ],
)
def test_choice(
    staging: Path,
    draft: ManifestDraft,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: PrecisionChoice,
    features: Set[str],
    on_cpu: bool,
    installed: bool,
    chosen: EngineKind,
    why: str,
) -> None:
    (staging / INT8_FILE).write_bytes((staging / "model.onnx").read_bytes())
    known = draft.model_copy(update={"precisions": measured(f32=0.5, int8=0.5)})
    bundle = publish_bundle(staging, known, tmp_path / "repository", "tiny")

    def spec(name: str) -> ModuleSpec | None:
        return find_spec("json" if installed else "not_there")

    monkeypatch.setattr(choosing, "find_spec", spec)
    found = choose_engine(wanted, bundle, on_cpu=on_cpu, features=features)
    assert found.kind == chosen
    assert why in found.why


def test_what_the_bundle_has_not_is_told(
    staging: Path, draft: ManifestDraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "find_spec", lambda name: find_spec("json"))
    with pytest.raises(Unavailable, match=f"has no {INT8_FILE}"):
        choose_engine("int8", publish_bundle(staging, draft, tmp_path / "repository", "tiny"), features=VNNI)


@pytest.mark.parametrize(
    ("why_no_cuda", "alone", "why"),
    [
        pytest.param("torch is not installed", False, "as torch is not installed", id="no torch"),
        pytest.param(None, True, "as it is in INT8, in which the cuda engine does not compute", id="no float weights"),
    ],
)
def test_a_gpu_without_the_cuda_engine_is_onnx_runtimes_and_says_why(
    staging: Path, draft: ManifestDraft, tmp_path: Path, why_no_cuda: str | None, alone: bool, why: str
) -> None:
    trades = Trades(int8=True, ap_deltas={"mask/AP": 0.0}) if alone else None
    bundle = publish_bundle(staging, draft.model_copy(update={"trades": trades}), tmp_path / "repository", "tiny")
    found = choose_engine("auto", bundle, on_cpu=False, why_no_cuda=why_no_cuda, features=VNNI)
    assert (found.kind, found.why) == ("onnx", why)


@pytest.mark.parametrize(
    ("choice", "gpus", "installed", "reasons", "why"),
    [
        pytest.param("cpu", 1, True, {}, "the CPU was asked for", id="the CPU"),
        pytest.param("auto", 0, True, {}, "there is no GPU", id="no GPU"),
        pytest.param("auto", 1, False, {}, "torch and torchvision and onnx are not installed", id="no torch"),
        pytest.param("auto", 1, True, {0: "torch sees no GPU"}, "torch sees no GPU", id="another driver"),
        pytest.param("auto", 2, True, {1: "torch cannot"}, "torch cannot", id="one of two that cannot"),
        pytest.param("cuda:0", 2, True, {1: "torch cannot"}, None, id="the other one"),
        pytest.param("auto", 2, True, {}, None, id="both"),
    ],
)
def test_torch_is_imported_only_where_there_is_a_gpu_and_torch(
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    gpus: int,
    installed: bool,
    reasons: dict[int, str],
    why: str | None,
) -> None:
    def starting() -> SimpleNamespace:
        assert gpus, "torch is imported in vain"
        assert installed
        return SimpleNamespace(why_no_gpu=reasons.get)

    monkeypatch.setattr(loading, "count_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "count_gpus", lambda: gpus)
    monkeypatch.setattr(loading, "find_spec", lambda name: find_spec("json" if installed else "not_there"))
    monkeypatch.setattr(loading, "_cuda", starting)
    found = why_no_cuda_engine(choice)
    assert found == why or (why is not None and found is not None and found.startswith(why))


def test_the_cuda_engine_is_never_started_elsewhere_than_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    monkeypatch.setattr(loading, "_cuda", lambda: SimpleNamespace(why_no_gpu={0: "torch sees no GPU"}.get))
    for choice, why in {
        "auto": "torch sees no GPU",
        "cuda:0": "torch sees no GPU",
        "cpu": "on NVIDIA GPUs alone",
    }.items():
        with pytest.raises(Unavailable, match=f"the cuda engine was asked for on device '{choice}', but .*{why}"):
            choose_devices(choice, "cuda")
    assert choose_devices("cuda:1", "cuda") == ("cuda:1",)
