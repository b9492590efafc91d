"""What a manifest says of a network in several precisions, for bundles made in tests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from model.runtime.bundles.manifest import (
    INT8_FILE,
    NETWORK_FILE,
    EngineEvaluation,
    Precision,
    PrecisionEvaluation,
)

NOBODY: Mapping[Precision, float] = MappingProxyType({})
ENGINES: Mapping[Precision, str] = MappingProxyType({"f32": "onnx", "int8": "onnx", "bf16": "openvino", "f16": "cuda"})
"""Which measures a precision first."""


def measured(
    openvino: Mapping[Precision, float] = NOBODY, *, head_room: float | None = 50.0, **ap: float
) -> dict[Precision, PrecisionEvaluation]:
    """Of each precision its mask AP (0 to 1), such as measured(f32=0.5, int8=0.499); the boxes' is a tenth better.
    head_room is that of f16; openvino is the AP of those precisions by OpenVINO, beside ONNX Runtime's."""
    files: dict[Precision, str] = {"f32": NETWORK_FILE, "f16": NETWORK_FILE, "bf16": NETWORK_FILE, "int8": INT8_FILE}
    return {
        precision: PrecisionEvaluation(
            **_by(ENGINES[precision], file, ap[precision]).model_dump(),
            head_room=head_room if precision == "f16" else None,
            other_engines=(_by("openvino", file, openvino[precision]),) if precision in openvino else (),
        )
        for precision, file in files.items()
        if precision in ap
    }


def _by(engine: str, file: str, ap: float) -> EngineEvaluation:
    return EngineEvaluation(
        dataset="generated",
        images=4,
        command="none: figures made by hand",
        engine=engine,
        metrics={"box/AP": ap + 0.1, "mask/AP": ap, "mask/AP50": 0.9},
        file=file,
        library=f"{engine} 1.31.1",
        processor="made by hand",
    )
