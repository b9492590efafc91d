"""The network in other precisions beside `model.onnx`: INT8 in its own file, and what each does on the same images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from model.network.engine import EagerEngine
from model.network.exporting.description import describe_onnx
from model.network.exporting.quantize import quantize_int8
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
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.processor import processor_name
from training.progress import Display
from training.publishing.checks import compare, evaluation, measure, require, require_affordable
from training.publishing.exported import Export
from training.publishing.gate import ap_differences, export_check
from training.publishing.trades import calibration_batches


def add_int8(
    export: Export, staging: Path, f32: Evaluation, trained: Mapping[str, float], display: Display
) -> dict[Precision, PrecisionEvaluation]:
    """Quantizes `model.onnx` of the folder `staging`, which is the network of `export`, to `model.int8.onnx` beside it.

    `f32` are the figures of `model.onnx`, `trained` those of the network as trained. Returns what the manifest says of
    every precision. Raises GateError where INT8 loses more than is allowed.
    """
    assert export.train is not None
    assert export.val is not None
    trades, task = export.options.trades, export.architecture.task
    images = min(trades.calibration_images, len(export.train))
    display.say(f"quantizing to INT8 on {images} training images, beside model.onnx")
    batches = calibration_batches(export.train, export.preprocessing, trades.calibration_images)
    quantize_int8(staging / NETWORK_FILE, staging / INT8_FILE, batches, half_storage=export.options.half)
    engine = OnnxEngine(staging / INT8_FILE, task, "cpu", None)
    difference = compare(EagerEngine(export.model), engine, "INT8", export, display)
    outcome = measure(engine, export, "INT8", display)
    engine.close()
    assert outcome is not None
    deltas = ap_differences(trained, outcome.metrics.headline())
    require_affordable("INT8", deltas, task, trades.most_ap_lost, display.say)
    check = export_check(difference, len(export.images), deltas, task)
    int8 = evaluation(export, outcome, "onnx", "int8")
    return {"f32": _measured(f32, NETWORK_FILE), "int8": _measured(int8, INT8_FILE, check, images)}


def publish_beside(bundle: Bundle, export: Export, repository: Path, name: str, display: Display) -> Bundle:
    """Publishes a bundle once more as the next version of `name`, with its network in INT8 beside `model.onnx`.

    The bundle's files stay as they are, but for what `model.onnx` says of itself. `export` is the bundle's network with
    the data to measure on. Raises GateError where `model.onnx` is not that network, or INT8 loses more than is allowed;
    then nothing is published.
    """
    with tempfile.TemporaryDirectory(prefix="maskserve-export-") as folder, display.bar("publishing", 3) as done:
        staging = Path(folder)
        for file in bundle.manifest.files:
            shutil.copyfile(bundle.file(file), staging / file)
        engine = OnnxEngine(staging / NETWORK_FILE, export.architecture.task, "cpu", None)
        require("onnx", compare(EagerEngine(export.model), engine, "onnx", export, display), {})
        done(1)
        outcome = measure(engine, export, "onnx", display)
        engine.close()
        assert outcome is not None
        done(2)
        f32 = evaluation(export, outcome, "onnx")
        precisions = add_int8(export, staging, f32, f32.metrics, display)
        done(3)
        known = {field: getattr(bundle.manifest, field) for field in ManifestDraft.model_fields}
        draft = ManifestDraft(**known | {"precisions": precisions})
        return publish_bundle(staging, draft, repository, name, describe_onnx)


def _measured(
    figures: Evaluation, file: str, check: ExportCheck | None = None, calibration_images: int | None = None
) -> PrecisionEvaluation:
    return PrecisionEvaluation(
        **figures.model_dump(),
        file=file,
        library=f"onnxruntime {onnxruntime.__version__}",
        processor=processor_name(),
        export_check=check,
        calibration_images=calibration_images,
    )
