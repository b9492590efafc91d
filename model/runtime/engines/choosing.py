"""Which engine runs a bundle where nobody has said: the one that is faster here, as far as that has been measured."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal

from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.manifest import INT8_FILE, Manifest, Precision, PrecisionChoice
from model.runtime.engines.engine import EngineKind
from model.runtime.engines.loading import why_no_int8_by_openvino, why_no_openvino
from model.runtime.engines.precision import (
    COMPUTED_BY,
    MOST_AP_LOST,
    ap_lost,
    choose_precision,
    instructions,
    why_inexact,
    why_not,
    why_unproven,
)
from model.runtime.engines.processor import BF16_FEATURES, INT8_FEATURES, PAIRED_INT8_FEATURES, processor_features

EngineChoice = Literal["auto", EngineKind]

_ANY_INT8: Final = INT8_FEATURES | PAIRED_INT8_FEATURES

_FASTEST_FIRST: Final[tuple[tuple[EngineKind, Precision, frozenset[str]], ...]] = (
    ("openvino", "int8", _ANY_INT8),
    ("openvino", "bf16", frozenset({"amx_bf16"})),
    ("onnx", "int8", _ANY_INT8),
    ("openvino", "bf16", BF16_FEATURES),
)
"""With the instructions of which the processor needs one. With ONNX Runtime in float32 as 1, an idle Xeon with AMX
reached 3.6, 2.0 and 1.8 in the first three, an idle EPYC with AVX-512 2.8, 2.0 and 1.3 in the others, one with AVX2
alone 1.7 and 1.5 in the first and third (`benchmarks.engines`; docs/benchmarks.md; bfloat16 before
`convert_pooled`)."""


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, and why it was chosen, in words that go on after its name; empty where it was asked for."""

    kind: EngineKind
    why: str = ""


def choose_engine(
    wanted: PrecisionChoice,
    bundle: Bundle,
    *,
    on_cpu: bool = True,
    why_no_cuda: str | None = None,
    features: Set[str] | None = None,
) -> ChosenEngine:
    """The engine for a bundle that is to compute in the precision `wanted`.

    On a GPU `cuda`, where nothing is in its way: `why_no_cuda` (`why_no_cuda_engine`), a bundle without weights in
    float32, or a precision that it does not know. Otherwise ONNX Runtime.

    On a CPU the first of `_FASTEST_FIRST` that computes in what is wanted; of "auto" the first that is proven of that
    engine. INT8 that is asked for by name is OpenVINO's only where that lost no more than `MOST_AP_LOST` beside ONNX
    Runtime's. OpenVINO is passed over where it is not installed or cannot be loaded. Otherwise ONNX Runtime: in float32
    OpenVINO gains 1.1 to 1.3, takes more memory and starts later, and on other processors nothing has been measured.
    features: the processor's; None asks it.

    Raises as `choose_precision` does.
    """
    features = processor_features() if features is None else features
    if not on_cpu:
        if why_no_cuda is None and wanted not in ("auto", *COMPUTED_BY["cuda"]):
            why_no_cuda = f"the cuda engine does not compute in {wanted}"
        if why_no_cuda is None and "f32" not in bundle.manifest.network_precisions:
            why_no_cuda = "it is in INT8, in which the cuda engine does not compute"
        return ChosenEngine("onnx", f"as {why_no_cuda}") if why_no_cuda else ChosenEngine("cuda", "as there is a GPU")
    if not features & (_ANY_INT8 | BF16_FEATURES):
        return ChosenEngine("onnx", "as this processor has no instructions for INT8 or bfloat16")
    possible = choose_precision(wanted, bundle, "openvino", features=features)
    passed_over: list[str] = []
    for kind, precision, needed in _FASTEST_FIRST:
        used = " and ".join(sorted(instructions(precision, features) & needed))
        if not used or not _computes_in(wanted, bundle.manifest, precision):
            continue
        reason = _why_not(wanted, bundle, precision, kind, features)
        if reason is None and kind == "openvino":
            reason = why_no_openvino()
        if reason is None and kind == "openvino":
            return ChosenEngine(kind, f"which is faster in {precision} with {used}")
        if reason is None:
            break
        passed_over.append(reason)
    if passed_over:
        return ChosenEngine("onnx", f"as {' and '.join(dict.fromkeys(passed_over))}")
    return ChosenEngine("onnx", f"as openvino gains too little in {possible} on this processor")


def _computes_in(wanted: PrecisionChoice, manifest: Manifest, precision: Precision) -> bool:
    """Whether the network may compute in this precision where `wanted` is asked for."""
    if "f32" not in manifest.network_precisions:
        return precision == "int8" and wanted != "bf16"
    return wanted == precision or (wanted == "auto" and (precision != "int8" or INT8_FILE in manifest.files))


def _why_not(
    wanted: PrecisionChoice, bundle: Bundle, precision: Precision, kind: EngineKind, features: Set[str]
) -> str | None:
    """Why this engine is not to compute what is wanted in this precision; None if it may."""
    manifest = bundle.manifest
    if kind == "openvino" and precision == "int8":
        wrong = why_no_int8_by_openvino(manifest.architecture)
        if wrong is not None:
            return wrong
    if wanted == "auto":
        return why_not(bundle, precision, kind, features)
    if kind == "onnx" or precision != "int8":  # of what is asked for there is no other engine to fall to
        return None
    ours, theirs = (ap_lost(manifest, precision, engine) for engine in ("openvino", "onnx"))
    if ours is not None and theirs is not None and ours - theirs <= MOST_AP_LOST:
        return why_inexact(bundle, features)
    return why_unproven(manifest, precision, kind)
