"""What a manifest says of a network in several precisions, for bundles made in tests."""

from __future__ import annotations

from model.runtime.bundles.manifest import INT8_FILE, NETWORK_FILE, Precision, PrecisionEvaluation


def measured(head_room: float | None = 50.0, **ap: float) -> dict[Precision, PrecisionEvaluation]:
    """Of each precision its mask AP (0 to 1), such as measured(f32=0.5, int8=0.499); the boxes' is a tenth better.
    head_room is that of f16."""
    files: dict[Precision, str] = {"f32": NETWORK_FILE, "f16": NETWORK_FILE, "bf16": NETWORK_FILE, "int8": INT8_FILE}
    return {
        precision: PrecisionEvaluation(
            dataset="generated",
            images=4,
            command="none: figures made by hand",
            engine="onnx",
            metrics={"box/AP": ap[precision] + 0.1, "mask/AP": ap[precision], "mask/AP50": 0.9},
            file=file,
            library="onnxruntime 1.31.1",
            processor="made by hand",
            head_room=head_room if precision == "f16" else None,
        )
        for precision, file in files.items()
        if precision in ap
    }
