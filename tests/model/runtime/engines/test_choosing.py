"""Nobody is made slower than ONNX Runtime by an engine that was chosen for him."""

from __future__ import annotations

from collections.abc import Set
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from model.runtime.bundles.bundle import ManifestDraft, publish_bundle
from model.runtime.bundles.manifest import INT8_FILE, PrecisionChoice
from model.runtime.engines import choosing
from model.runtime.engines.choosing import choose_engine
from model.runtime.engines.engine import EngineKind, Unavailable
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
        pytest.param("auto", VNNI, False, True, "onnx", "can use the GPU", id="a GPU"),
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
