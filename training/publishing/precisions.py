"""The network in other precisions beside `model.onnx`: INT8 in its own file, and what each does on the same images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from model.console.installing import install
from model.network.engine import EagerEngine
from model.network.exporting.description import describe_onnx
from model.network.exporting.quantize import quantize_int8
from model.network.serving.emulating import EmulatedHalf
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import (
    INT8_FILE,
    NETWORK_FILE,
    Evaluation,
    ExportCheck,
    ManifestDraft,
    Precision,
    PrecisionEvaluation,
)
from model.runtime.bundles.references import REFERENCES_FILE
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.processor import BF16_FEATURES, processor_features, processor_name
from training.data.annotations.dataset import Dataset
from training.data.annotations.diameter import median_diameter
from training.progress import Display
from training.publishing.checks import compare, evaluation, measure, require, require_affordable
from training.publishing.exported import Export
from training.publishing.gate import AP_TOLERANCE, Reference, ap_differences, export_check
from training.publishing.references import write_references
from training.publishing.trades import calibration_batches


def add_precisions(
    export: Export,
    reference: Reference,
    staging: Path,
    f32: Evaluation,
    trained: Mapping[str, float],
    display: Display,
) -> dict[Precision, PrecisionEvaluation]:
    """Quantizes `model.onnx` of the folder `staging`, which is the network of `export`, to `model.int8.onnx` beside it,
    and measures that and `model.onnx` in bf16, which takes OpenVINO and a processor that computes in it.

    `f32` are the figures of `model.onnx`, `trained` those of the network as trained. Returns what the manifest says of
    every precision. Raises GateError where INT8 loses more than is allowed; bf16 is an engine's, and may lose anything.
    """
    assert export.train is not None
    assert export.val is not None
    trades, task = export.options.trades, export.architecture.task
    images = min(trades.calibration_images, len(export.train))
    display.say(f"quantizing to INT8 on {images} training images, beside model.onnx")
    batches = calibration_batches(export.train, export.preprocessing, trades.calibration_images)
    quantize_int8(staging / NETWORK_FILE, staging / INT8_FILE, batches, half_storage=export.options.half)
    engine = OnnxEngine(staging / INT8_FILE, task, "cpu", None)
    difference = compare(reference, engine, "INT8", display)
    outcome = measure(engine, export, "INT8", display)
    engine.close()
    assert outcome is not None
    deltas = ap_differences(trained, outcome.metrics.headline())
    require_affordable("INT8", deltas, task, trades.most_ap_lost, display.say)
    check = export_check(difference, len(export.images), deltas, task)
    int8 = evaluation(export, outcome, "onnx", "int8")
    precisions: dict[Precision, PrecisionEvaluation] = {
        "f32": _measured(f32, NETWORK_FILE),
        "int8": _measured(int8, INT8_FILE, check, images),
    }
    bf16 = measure_bf16(export, reference, staging / NETWORK_FILE, trained, display)
    return precisions if bf16 is None else precisions | {"bf16": bf16}


def measure_bf16(
    export: Export, reference: Reference, file: Path, trained: Mapping[str, float], display: Display
) -> PrecisionEvaluation | None:
    """What the network does in bf16; None, with a word why, where this machine cannot tell."""
    if not processor_features() & BF16_FEATURES:
        display.say("bf16 is not measured: this processor does not compute in it")
        return None
    try:
        from model.runtime.engines.openvino import OpenVinoEngine
    except ImportError:
        display.say(f"bf16 is not measured: it takes OpenVINO; {install('openvino')}")
        return None
    task = export.architecture.task
    engine = OpenVinoEngine(file, task, "cpu", None, "bf16")
    difference = compare(reference, engine, "bf16", display)
    outcome = measure(engine, export, "bf16", display)
    engine.close()
    assert outcome is not None
    check = export_check(difference, len(export.images), ap_differences(trained, outcome.metrics.headline()), task)
    return _measured(evaluation(export, outcome, "openvino", "bf16"), NETWORK_FILE, check)


def measure_half(
    export: Export, half: EmulatedHalf, f32: Evaluation, display: Display
) -> dict[Precision, PrecisionEvaluation]:
    """What the manifest says of the network in half precision, beside `f32`, the figures of `model.onnx`: its AP and
    the head room on the validation images, as a CPU emulates the engine `cuda`. It may lose anything."""
    outcome = measure(half, export, "half precision, emulated", display)
    assert outcome is not None
    again = sum(half.answered_again.values())
    display.say(
        f"half precision: the largest number between two layers could be {half.head_room:.3g} times as large; "
        f"{again} of {f32.images} images were computed again in float32"
    )
    f16 = evaluation(export, outcome, "cuda", "f16")
    return {"f32": _measured(f32, NETWORK_FILE), "f16": _measured(f16, NETWORK_FILE, head_room=half.head_room)}


def publish_measured(bundle: Bundle, export: Export, repository: Path, name: str, display: Display) -> Bundle:
    """Publishes a bundle once more as the next version of `name`: with what it loses in half precision, and where that
    is wished for with its network in INT8 beside `model.onnx`.

    The bundle's files stay as they are, but for what `model.onnx` says of itself. Its manifest gets the size of the
    training objects, too, and where it has no reference images it gets some. `export` is the bundle's network with the
    data to measure on. Raises GateError where `model.onnx` is not that network, or INT8 loses more than is allowed, and
    ValueError where its INT8 was measured on other data; then nothing is published.
    """
    with tempfile.TemporaryDirectory(prefix="maskserve-export-") as folder, display.bar("publishing", 3) as done:
        staging = Path(folder)
        _copy_files(bundle, staging)
        eager = EagerEngine(export.model)
        reference = Reference(eager, export.images, export.preprocessing)
        engine = OnnxEngine(staging / NETWORK_FILE, export.architecture.task, "cpu", None)
        require("onnx", compare(reference, engine, "onnx", display), {})
        done(1)
        outcome = measure(engine, export, "onnx", display)
        engine.close()
        assert outcome is not None
        assert export.train is not None
        done(2)
        f32 = evaluation(export, outcome, "onnx")
        half = EmulatedHalf(export.model)
        precisions = measure_half(export, half, f32, display) if export.options.measure_half else {}
        if REFERENCES_FILE not in bundle.manifest.files:
            write_references(export, eager, half, staging, display)
        if export.options.trades.int8:
            precisions |= add_precisions(export, reference, staging, f32, f32.metrics, display)
        else:
            precisions |= _measured_before(bundle, f32)
        done(3)
        changes = {"precisions": precisions, "object_diameter": median_diameter(export.train, export.architecture)}
        return _publish_changed(bundle, staging, changes, repository, name)


def _measured_before(bundle: Bundle, f32: Evaluation) -> dict[Precision, PrecisionEvaluation]:
    """What the manifest says of INT8 and bf16, which stay as they are. Raises ValueError where that cannot be compared
    with `f32`."""
    before = bundle.manifest.precisions
    others = {precision: known for precision, known in before.items() if precision not in ("f32", "f16")}
    if others and any(
        abs(f32.metrics[name] - value) > AP_TOLERANCE
        for name, value in before["f32"].metrics.items()
        if name.endswith("/AP")
    ):
        raise ValueError(
            f"{bundle.path} was measured on other images, in {' and '.join(others)} too: give that data, or --int8 "
            "beside to measure all of it again"
        )
    return others


def publish_diameter(bundle: Bundle, train: Dataset, repository: Path, name: str) -> Bundle:
    """Publishes a bundle once more as the next version of `name`, with the size of the objects in `train`, of which it
    was trained. Raises ValueError where there are none."""
    diameter = median_diameter(train, bundle.manifest.architecture)
    if diameter is None:
        raise ValueError(f"{train.name} has no objects that could be measured")
    with tempfile.TemporaryDirectory(prefix="maskserve-export-") as folder:
        staging = Path(folder)
        _copy_files(bundle, staging)
        return _publish_changed(bundle, staging, {"object_diameter": diameter}, repository, name)


def _copy_files(bundle: Bundle, staging: Path) -> None:
    for file in bundle.manifest.files:
        shutil.copyfile(bundle.file(file), staging / file)


def _publish_changed(bundle: Bundle, staging: Path, changes: dict[str, Any], repository: Path, name: str) -> Bundle:
    """The files of `staging` with a bundle's manifest, but for these fields."""
    known = {field: getattr(bundle.manifest, field) for field in ManifestDraft.model_fields}
    return publish_bundle(staging, ManifestDraft(**known | changes), repository, name, describe_onnx)


def _measured(
    figures: Evaluation,
    file: str,
    check: ExportCheck | None = None,
    calibration_images: int | None = None,
    head_room: float | None = None,
) -> PrecisionEvaluation:
    library = f"onnxruntime {onnxruntime.__version__}"  # the package's own name differs between platforms
    if figures.engine == "openvino":
        library = f"openvino {metadata.version('openvino')}"
    if figures.engine == "cuda":
        library = f"torch {torch.__version__}, emulated on a CPU"
    return PrecisionEvaluation(
        **figures.model_dump(),
        file=file,
        library=library,
        processor=processor_name(),
        export_check=check,
        calibration_images=calibration_images,
        head_room=head_room,
    )
