"""The network in other precisions beside `model.onnx`: INT8 in its own file, and what each does on the same images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import torch

from model.network.engine import EagerEngine
from model.network.exporting.description import describe_onnx
from model.network.exporting.quantize import quantize_int8
from model.network.serving.emulating import EmulatedHalf
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import (
    INT8_FILE,
    NETWORK_FILE,
    EngineEvaluation,
    Evaluation,
    ExportCheck,
    ManifestDraft,
    Precision,
    PrecisionEvaluation,
    Unmeasured,
)
from model.runtime.bundles.references import REFERENCES_FILE
from model.runtime.engines.engine import EngineError
from model.runtime.engines.loading import why_no_int8_by_openvino, why_no_openvino
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.processor import BF16_FEATURES, processor_features, processor_name
from training.data.annotations.dataset import Dataset
from training.data.annotations.diameter import median_diameter
from training.progress import Display
from training.publishing.checks import compare, evaluation, measure, require, require_affordable
from training.publishing.exported import Export, ExportOptions
from training.publishing.gate import AP_TOLERANCE, Reference, ap_differences, export_check
from training.publishing.references import write_references
from training.publishing.trades import calibration_batches


@dataclass(slots=True)
class Measured:
    """What the manifest says of every precision, while it is measured."""

    precisions: dict[Precision, PrecisionEvaluation] = field(default_factory=dict)
    unmeasured: list[Unmeasured] = field(default_factory=list)

    def has(self, precision: Precision, found: EngineEvaluation | Unmeasured, f32: Evaluation) -> None:
        """Another engine's figures, beside those of ONNX Runtime where there are some, or why there are none; `f32` are
        those that they are compared with."""
        if isinstance(found, Unmeasured):
            self.unmeasured.append(found)
            return
        self.precisions.setdefault("f32", _first(_by_engine(f32, NETWORK_FILE)))
        known = self.precisions.get(precision)
        if known is None:
            self.precisions[precision] = PrecisionEvaluation(**found.model_dump())
        else:
            self.precisions[precision] = known.model_copy(update={"other_engines": (*known.other_engines, found)})


def add_int8(
    export: Export,
    reference: Reference,
    staging: Path,
    f32: Evaluation,
    trained: Mapping[str, float],
    measured: Measured,
    display: Display,
) -> None:
    """Quantizes `model.onnx` of the folder `staging`, which is the network of `export`, to `model.int8.onnx` beside it,
    and measures that by each engine that computes it.

    `f32` are the figures of `model.onnx`, `trained` those of the network as trained. Raises GateError where INT8 loses
    more than is allowed by ONNX Runtime; who serves it by OpenVINO finds in the manifest what it loses there.
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
    int8 = _by_engine(evaluation(export, outcome, "onnx", "int8"), INT8_FILE, check)
    measured.precisions.setdefault("f32", _first(_by_engine(f32, NETWORK_FILE)))
    measured.precisions["int8"] = _first(int8, calibration_images=images)
    measured.has("int8", by_openvino(export, reference, staging / INT8_FILE, "int8", trained, display), f32)


def by_openvino(
    export: Export,
    reference: Reference,
    file: Path,
    precision: Literal["bf16", "int8"],
    trained: Mapping[str, float],
    display: Display,
) -> EngineEvaluation | Unmeasured:
    """What the network in `file` does in OpenVINO, where it may lose anything; or why this machine cannot tell, said
    too. `trained` are the figures of the network as trained."""
    reason, task = why_no_openvino(), export.architecture.task
    if precision == "int8":
        reason = why_no_int8_by_openvino(export.architecture) or reason
    if precision == "bf16" and not processor_features() & BF16_FEATURES:
        reason = f"this processor ({processor_name()}) does not compute in it"
    if reason is None:
        from model.runtime.engines.openvino import OpenVinoEngine

        try:
            engine = OpenVinoEngine(file, task, "cpu", None, "bf16" if precision == "bf16" else "f32")
        except EngineError as error:
            display.say(str(error))
            reason = "openvino cannot load the network"
    if reason is not None:
        display.say(f"{precision} by OpenVINO is not measured, as {reason}")
        return Unmeasured(precision=precision, engine="openvino", why=reason)
    what = f"{precision} by OpenVINO"
    difference = compare(reference, engine, what, display)
    outcome = measure(engine, export, what, display)
    engine.close()
    assert outcome is not None
    check = export_check(difference, len(export.images), ap_differences(trained, outcome.metrics.headline()), task)
    return _by_engine(evaluation(export, outcome, "openvino", precision), file.name, check)


def measure_half(
    export: Export, half: EmulatedHalf, f32: Evaluation, display: Display
) -> dict[Precision, PrecisionEvaluation]:
    """What the manifest says of the network in half precision, beside `f32`, the figures of `model.onnx`: its AP and
    its head room on the validation images, as a CPU emulates it. It may lose anything."""
    outcome = measure(half, export, "half precision, emulated", display)
    assert outcome is not None
    again = sum(half.answered_again.values())
    display.say(
        f"half precision: the largest number between two layers could be {half.head_room:.3g} times as large; "
        f"{again} of {f32.images} images were computed again in float32"
    )
    f16 = _by_engine(evaluation(export, outcome, "cuda", "f16"), NETWORK_FILE)
    return {"f32": _first(_by_engine(f32, NETWORK_FILE)), "f16": _first(f16, head_room=half.head_room)}


def publish_measured(bundle: Bundle, export: Export, repository: Path, name: str, display: Display) -> Bundle:
    """Publishes a bundle once more as the next version of `name`: with what it loses in half precision, in bf16 and, if
    it has that, in INT8, as far as this machine can tell, and where that is wished for with INT8 made anew.

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
        before = _measured_before(bundle, f32, export.options)
        # What f16 of releases of before is compared with, which padded images otherwise.
        padded = bundle.manifest.precisions["f32"].other_engines if "f16" in before else ()
        exact = _first(_by_engine(f32, NETWORK_FILE)).model_copy(update={"other_engines": padded})
        measured = Measured({"f32": exact, **before})
        if export.options.measure_half:
            measured.precisions |= measure_half(export, half, f32, display)
        if REFERENCES_FILE not in bundle.manifest.files:
            write_references(export, eager, half, staging, display)
        if export.options.trades.int8:
            add_int8(export, reference, staging, f32, f32.metrics, measured, display)
        elif "int8" in measured.precisions and measured.precisions["int8"].by("openvino") is None:
            found = by_openvino(export, reference, staging / INT8_FILE, "int8", f32.metrics, display)
            measured.has("int8", found, f32)
        bf16 = by_openvino(export, reference, staging / NETWORK_FILE, "bf16", f32.metrics, display)
        if isinstance(bf16, EngineEvaluation):
            measured.precisions.pop("bf16", None)
        if "bf16" not in measured.precisions:
            measured.has("bf16", bf16, f32)
        done(3)
        changes = {
            "precisions": measured.precisions,
            "unmeasured": tuple(measured.unmeasured),
            "object_diameter": median_diameter(export.train, export.architecture),
        }
        return _publish_changed(bundle, staging, changes, repository, name)


def _measured_before(bundle: Bundle, f32: Evaluation, options: ExportOptions) -> dict[Precision, PrecisionEvaluation]:
    """What the manifest says of precisions that may not be measured now, of files that stay as they are.

    That cannot be compared with `f32` where it was measured on other images: then nothing where INT8 is made anew, else
    raises ValueError.
    """
    before = bundle.manifest.precisions
    anew = {"f32"} | ({"f16"} if options.measure_half else set()) | ({"int8"} if options.trades.int8 else set())
    others = {precision: known for precision, known in before.items() if precision not in anew}
    if not others or all(
        abs(f32.metrics[name] - value) <= AP_TOLERANCE
        for name, value in before["f32"].metrics.items()
        if name.endswith("/AP")
    ):
        return others
    if options.trades.int8:
        return {}
    raise ValueError(
        f"{bundle.path} was measured on other images, in {' and '.join(others)} too: give that data, or --int8 beside "
        "to measure all of it again"
    )


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


def _by_engine(figures: Evaluation, file: str, check: ExportCheck | None = None) -> EngineEvaluation:
    library = f"onnxruntime {onnxruntime.__version__}"  # the package's own name differs between platforms
    if figures.engine == "openvino":
        library = f"openvino {metadata.version('openvino')}"
    if figures.engine == "cuda":
        library = f"torch {torch.__version__}, emulated on a CPU"
    return EngineEvaluation(
        **figures.model_dump(),
        file=file,
        library=library,
        processor=processor_name(),
        export_check=check,
    )


def _first(
    figures: EngineEvaluation, calibration_images: int | None = None, head_room: float | None = None
) -> PrecisionEvaluation:
    """Of the engine that is measured before others."""
    return PrecisionEvaluation(**figures.model_dump(), calibration_images=calibration_images, head_room=head_room)
