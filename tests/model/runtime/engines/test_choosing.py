"""Nobody is made slower than ONNX Runtime by an engine that was chosen for him."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Set
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.network import serving
from model.runtime.bundles.bundle import Bundle, ManifestDraft, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, Precision, PrecisionChoice, Trades, Unmeasured
from model.runtime.engines import choosing, devices, loading
from model.runtime.engines.choosing import choose_engine
from model.runtime.engines.engine import EngineKind, Unavailable
from model.runtime.engines.loading import choose_devices, why_no_cuda_engine
from model.runtime.engines.precision import choose_precision, load_in
from tests.measured import NOBODY, measured
from tests.model.runtime.engines.test_precision import OLD, VNNI, add_weights

BOTH = VNNI | {"avx512_bf16"}
AMX = BOTH | {"amx_int8", "amx_bf16"}
NOTHING_LOST = {"int8": 0.5}
ALL = {"f32": 0.5, "int8": 0.5, "bf16": 0.5}


@pytest.fixture
def make(staging: Path, draft: ManifestDraft, tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle with INT8 beside and these figures, those of `openvino` by OpenVINO."""

    def of(
        ap: dict[str, float],
        openvino: Mapping[Precision, float] = NOBODY,
        unmeasured: tuple[Unmeasured, ...] = (),
        largest_weight: int | None = None,
    ) -> Bundle:
        (staging / INT8_FILE).write_bytes((staging / "model.onnx").read_bytes())
        if largest_weight is not None:
            add_weights(staging / INT8_FILE, largest_weight)
        known = draft.model_copy(update={"precisions": measured(openvino=openvino, **ap), "unmeasured": unmeasured})
        return publish_bundle(staging, known, tmp_path / "repository", "tiny")

    return of


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "why_no_openvino", lambda: None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("wanted", "features", "on_cpu", "chosen", "why"),
    [
        pytest.param("f32", BOTH, True, "onnx", "gains too little in f32", id="float32"),
        pytest.param("int8", VNNI, True, "openvino", "faster in int8 with avx512_vnni", id="INT8"),
        pytest.param("auto", VNNI, True, "openvino", "faster in int8 with avx512_vnni", id="INT8 by itself"),
        pytest.param("int8", {"avx512_bf16"}, True, "onnx", "too little in int8", id="INT8 without instructions"),
        pytest.param("bf16", BOTH, True, "openvino", "faster in bf16 with avx512_bf16", id="bfloat16"),
        pytest.param("int8", OLD, True, "onnx", "as sums in int8 may overflow", id="AVX2 alone"),
        pytest.param("auto", frozenset(), True, "onnx", "no instructions", id="a processor that is not known"),
        pytest.param("auto", VNNI, False, "cuda", "as there is a GPU", id="a GPU"),
        pytest.param("f32", OLD, False, "cuda", "as there is a GPU", id="float32 on a GPU"),
        pytest.param("int8", VNNI, False, "onnx", "does not compute in int8", id="INT8 on a GPU"),
    ],
)
def test_choice(
    make: Callable[..., Bundle],
    wanted: PrecisionChoice,
    features: Set[str],
    on_cpu: bool,
    chosen: EngineKind,
    why: str,
) -> None:
    found = choose_engine(wanted, make({"f32": 0.5, "int8": 0.5}, NOTHING_LOST), on_cpu=on_cpu, features=features)
    assert found.kind == chosen
    assert why in found.why


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("wanted", "largest_weight", "lost", "chosen", "precision", "why"),
    [
        pytest.param("auto", 64, 0.0, "openvino", "int8", "which is faster in int8 with avx2", id="nothing overflows"),
        pytest.param("int8", 64, 0.0, "openvino", "int8", "which is faster in int8 with avx2", id="asked for"),
        pytest.param("auto", 64, 0.003, "onnx", "int8", "as int8 by openvino lost 0.30 points", id="OpenVINO loses"),
        pytest.param("auto", 127, 0.0, "onnx", "f32", "as sums in int8 may overflow", id="8 bits"),
        pytest.param("int8", 127, 0.0, "onnx", "int8", "(its weights reach 127)", id="8 bits that are asked for"),
        pytest.param("auto", None, 0.0, "onnx", "f32", "(how large its weights are is not known)", id="unknown"),
        pytest.param("f32", 64, 0.0, "onnx", "f32", "as openvino gains too little in f32", id="float32"),
    ],
)
def test_with_avx2_alone_int8_is_chosen_where_its_weights_are_small(
    make: Callable[..., Bundle],
    wanted: PrecisionChoice,
    largest_weight: int | None,
    lost: float,
    chosen: EngineKind,
    precision: Precision,
    why: str,
) -> None:
    bundle = make({"f32": 0.5, "int8": 0.5}, {"int8": 0.5 - lost}, largest_weight=largest_weight)
    found = choose_engine(wanted, bundle, features=OLD)
    assert (found.kind, choose_precision(wanted, bundle, found.kind, features=OLD)) == (chosen, precision)
    assert why in found.why


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("wanted", "ap", "openvino", "features", "chosen", "precision", "why"),
    [
        pytest.param(
            "auto",
            ALL,
            {"int8": 0.4979},
            BOTH,
            "onnx",
            "int8",
            "as int8 by openvino lost 0.21 points of AP when it was published",
            id="OpenVINO's INT8 loses too much, ONNX Runtime's nothing and is faster than bfloat16",
        ),
        pytest.param(
            "auto",
            {"f32": 0.5, "int8": 0.5},
            {},
            VNNI,
            "onnx",
            "int8",
            "as what int8 by openvino loses was not measured when it was published",
            id="by OpenVINO nobody measured it",
        ),
        pytest.param(
            "auto",
            {"f32": 0.5, "int8": 0.497},
            NOTHING_LOST,
            VNNI,
            "openvino",
            "int8",
            "which is faster in int8",
            id="ONNX Runtime's INT8 is not what would run",
        ),
        pytest.param(
            "auto",
            {"f32": 0.5, "int8": 0.497},
            {},
            VNNI,
            "onnx",
            "f32",
            "int8 by onnx lost 0.30 points",
            id="neither is proven",
        ),
        pytest.param(
            "auto",
            ALL,
            {"int8": 0.4},
            AMX,
            "openvino",
            "bf16",
            "faster in bf16 with amx_bf16",
            id="with AMX bfloat16 is faster than ONNX Runtime's INT8",
        ),
        pytest.param(
            "auto",
            {"f32": 0.5, "int8": 0.4, "bf16": 0.5},
            {},
            BOTH,
            "openvino",
            "bf16",
            "faster in bf16 with avx512_bf16",
            id="bfloat16 alone is proven",
        ),
        pytest.param(
            "int8",
            {"f32": 0.5, "int8": 0.4},
            {"int8": 0.3985},
            VNNI,
            "openvino",
            "int8",
            "faster",
            id="INT8 is asked for, whatever it loses by either",
        ),
        pytest.param(
            "int8",
            {"f32": 0.5, "int8": 0.4},
            {"int8": 0.39},
            VNNI,
            "onnx",
            "int8",
            "int8 by openvino lost 11.00 points",
            id="INT8 is asked for, and OpenVINO's loses more",
        ),
        pytest.param(
            "int8",
            {"f32": 0.5, "int8": 0.5},
            {},
            VNNI,
            "onnx",
            "int8",
            "what int8 by openvino loses was not measured",
            id="INT8 is asked for, and OpenVINO's was not measured",
        ),
    ],
)
def test_each_engine_is_judged_by_what_it_lost_itself(
    make: Callable[..., Bundle],
    wanted: PrecisionChoice,
    ap: dict[str, float],
    openvino: dict[Precision, float],
    features: Set[str],
    chosen: EngineKind,
    precision: Precision,
    why: str,
) -> None:
    bundle = make(ap, openvino)
    found = choose_engine(wanted, bundle, features=features)
    assert (found.kind, choose_precision(wanted, bundle, found.kind, features=features)) == (chosen, precision)
    assert why in found.why


@pytest.mark.usefixtures("installed")
def test_why_a_precision_was_not_measured_is_told(make: Callable[..., Bundle]) -> None:
    missing = Unmeasured(precision="int8", engine="openvino", why="openvino is not installed")
    found = choose_engine("auto", make({"f32": 0.5, "int8": 0.5}, unmeasured=(missing,)), features=VNNI)
    assert (found.kind, found.why) == (
        "onnx",
        "as what int8 by openvino loses was not measured when it was published (openvino is not installed)",
    )


@pytest.mark.parametrize("wanted", ["auto", "int8"])
def test_where_openvino_cannot_run_it_is_onnx_runtimes_and_says_why(
    make: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, wanted: PrecisionChoice
) -> None:
    monkeypatch.setattr(choosing, "why_no_openvino", lambda: "openvino is broken")
    bundle = make({"f32": 0.5, "int8": 0.5}, NOTHING_LOST)
    found = choose_engine(wanted, bundle, features=VNNI)
    assert (found.kind, found.why) == ("onnx", "as openvino is broken")
    assert choose_precision(wanted, bundle, found.kind, features=VNNI) == "int8"


def test_openvino_is_not_imported_where_it_would_not_run(
    make: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "why_no_openvino", None)
    choose_engine("f32", make(ALL, NOTHING_LOST), features=AMX)
    choose_engine("auto", make(ALL, NOTHING_LOST), features=OLD)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("lost", "wanted", "chosen"),
    [
        pytest.param(0.0, "f32", "openvino", id="no more than ONNX Runtime"),
        pytest.param(0.003, "f32", "onnx", id="more"),
        pytest.param(None, "auto", "onnx", id="nobody knows"),
        pytest.param(None, "int8", "onnx", id="nor where INT8 is asked for"),
    ],
)
def test_in_int8_alone_openvino_is_compared_with_onnx_runtime(
    staging: Path,
    draft: ManifestDraft,
    tmp_path: Path,
    lost: float | None,
    wanted: PrecisionChoice,
    chosen: EngineKind,
) -> None:
    others = {} if lost is None else {"openvino": {"box/AP": 0.0, "mask/AP": -0.004 - lost}}
    trades = Trades(int8=True, ap_deltas={"box/AP": 0.0, "mask/AP": -0.004}, other_engines=others)
    bundle = publish_bundle(staging, draft.model_copy(update={"trades": trades}), tmp_path / "repository", "tiny")
    assert choose_engine(wanted, bundle, features=VNNI).kind == chosen


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("wanted", ["auto", "int8"])
def test_int8_that_openvino_computes_wrongly_is_onnx_runtimes(
    staging: Path, draft: ManifestDraft, tmp_path: Path, wanted: PrecisionChoice
) -> None:
    (staging / INT8_FILE).write_bytes((staging / "model.onnx").read_bytes())
    known = draft.model_dump() | {"precisions": measured(NOTHING_LOST, f32=0.5, int8=0.5)}
    known["architecture"] |= {"features": "c4", "anchor_sizes": ((16, 32),)}
    bundle = publish_bundle(staging, ManifestDraft(**known), tmp_path / "repository", "tiny")
    found = choose_engine(wanted, bundle, features=VNNI)
    assert (found.kind, found.why) == ("onnx", "as openvino computes C4 networks wrongly in INT8")
    with pytest.raises(Unavailable, match="openvino computes C4 networks wrongly in INT8; choose engine onnx"):
        load_in("int8", bundle, "openvino", "cpu")


@pytest.mark.usefixtures("installed")
def test_what_the_bundle_has_not_is_told(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
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


class Broken(MetaPathFinder):
    """A package that is there and cannot be imported."""

    def __init__(self, module: str, error: Exception) -> None:
        self._module, self._error = module, error

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == self._module:
            raise self._error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libcudnn.so.9: cannot open shared object file"), "libcudnn.so.9: cannot open shared object"),
        (OSError("libcudart.so.13: cannot open shared object file"), "libcudart.so.13: cannot open shared object"),
        (RuntimeError("operator torchvision::nms\ndoes not exist"), "operator torchvision::nms does not exist"),
        (ValueError("libcublas.so.*[0-9] not found in the system path"), "libcublas.so.*[0-9] not found"),
        (AssertionError(), "AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_torch_that_cannot_be_imported_is_none(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    """Such as torchvision for another torch, or torch without CUDA's libraries: ONNX Runtime serves."""
    module = "model.network.serving.starting"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr(serving, "starting", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(module, error), *sys.meta_path])
    for owner in (loading, devices):
        monkeypatch.setattr(owner, "count_gpus", lambda: 1)
    why = why_no_cuda_engine("auto")
    assert why is not None
    assert f"the cuda engine needs torch, torchvision and onnx ({said}" in why
    assert "\n" not in why
    with pytest.raises(Unavailable, match="the cuda engine needs torch"):
        choose_devices("cuda:0", "cuda")


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
