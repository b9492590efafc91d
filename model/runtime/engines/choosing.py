"""Which engine runs a bundle where nobody has said: the one that is faster here, as far as that has been measured."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.engines.engine import EngineKind
from model.runtime.engines.precision import COMPUTED_BY, choose_precision
from model.runtime.engines.processor import BF16_FEATURES, INT8_FEATURES, processor_features

EngineChoice = Literal["auto", EngineKind]


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

    On a CPU OpenVINO, where it is installed, for what it computes in INT8 or bfloat16 with the processor's own
    instructions. With ONNX Runtime in float32 as 1, an idle EPYC with AVX-512 reached 1.3 in bfloat16 and 2.8 in INT8,
    where ONNX Runtime has 2.0, and an idle Xeon with AMX 2.0, 3.6 and 1.8 (`benchmarks.engines`; docs/benchmarks.md;
    bfloat16 before `convert_pooled`). Otherwise ONNX Runtime: in float32 OpenVINO gains 1.1 to
    1.3, takes more memory and starts later, and on other processors nothing has been measured. features: the
    processor's; None asks it.

    Raises Unavailable as `choose_precision` does.
    """
    features = processor_features() if features is None else features
    if not on_cpu:
        if why_no_cuda is None and wanted not in ("auto", *COMPUTED_BY["cuda"]):
            why_no_cuda = f"the cuda engine does not compute in {wanted}"
        if why_no_cuda is None and "f32" not in bundle.manifest.network_precisions:
            why_no_cuda = "it is in INT8, in which the cuda engine does not compute"
        return ChosenEngine("onnx", f"as {why_no_cuda}") if why_no_cuda else ChosenEngine("cuda", "as there is a GPU")
    if not features & (INT8_FEATURES | BF16_FEATURES):
        return ChosenEngine("onnx", "as this processor has no instructions for INT8 or bfloat16")
    if find_spec("openvino") is None:
        return ChosenEngine("onnx", "as openvino is not installed")
    precision = choose_precision(wanted, bundle, "openvino", features=features)
    used = sorted(features & {"int8": INT8_FEATURES, "bf16": BF16_FEATURES}.get(precision, frozenset()))
    if not used:
        return ChosenEngine("onnx", f"as openvino gains too little in {precision} on this processor")
    return ChosenEngine("openvino", f"which is faster in {precision} with {' and '.join(used)}")
