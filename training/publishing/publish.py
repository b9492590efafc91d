"""Checkpoint -> staged files -> gate -> bundle. A failed gate publishes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from model.architecture import has_keypoints
from model.network.build import Detector, build_unfilled
from model.network.engine import EagerEngine
from model.network.exporting.description import describe_onnx
from model.network.exporting.export import export_onnx, is_half_storable
from model.network.exporting.quantize import quantize_int8
from model.network.exporting.saving import save_whole
from model.network.exporting.torchscript import export_torchscript
from model.network.serving.emulating import EmulatedHalf
from model.network.weights import WEIGHTS_FILE
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import (
    NETWORK_FILE,
    EngineEvaluation,
    Evaluation,
    ExportCheck,
    ManifestDraft,
    ServingDefaults,
)
from model.runtime.engines.engine import MODEL_FILES, Engine
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.torchscript import TorchScriptEngine
from training.checkpoint import Checkpoint
from training.config import PublishIf, TrainConfig
from training.data.annotations.diameter import median_diameter
from training.data.loading.samples import readable_images
from training.data.loading.source import TrainingData
from training.evaluation.matching import MATCHED_BY, match_detections
from training.evaluation.operating_point import best_thresholds
from training.evaluation.validation import SCORE_THRESHOLD, Outcome
from training.progress import Display
from training.publishing.checks import compare, evaluation, measure, require, require_affordable
from training.publishing.comparison import Candidate, compare_with_served
from training.publishing.exported import Export, ExportOptions
from training.publishing.gate import GATE_IMAGES, Reference, ap_differences, export_check, generated_images
from training.publishing.precisions import Measured, add_int8, by_openvino, measure_half
from training.publishing.provenance import provenance
from training.publishing.references import write_references
from training.publishing.trades import TradeOptions, calibration_batches, rebuilt, traded_architecture
from training.starting.identity import dataset_name


def publish_run(
    config: TrainConfig,
    data: TrainingData | None,
    checkpoint: Checkpoint,
    display: Display,
    options: ExportOptions | None = None,
    publish_if: PublishIf | None = None,
) -> Bundle:
    """Publishes a run's checkpoint into its model repository; without `data` the gate uses generated images and no AP.

    What it was trained on the checkpoint knows; `data` is what it is evaluated on. publish_if: compare with the version
    that is served, and publish always or if better; None: don't compare. Raises as `publish` does.
    """
    model = build_unfilled(config.architecture)
    model.load_state_dict(checkpoint.published_state)
    channels = config.architecture.channels
    images = generated_images(channels=channels)
    if data is not None:
        source = data.train if data.val is None else data.val
        readable = readable_images(source.images, config.intensity, config.on_broken, channels)
        images = list(islice(readable, GATE_IMAGES))
    export = Export(
        model=model.eval(),
        architecture=config.architecture,
        class_names=checkpoint.class_names,
        provenance=provenance(config, checkpoint),
        images=images,
        intensity=config.intensity,
        keypoint_names=checkpoint.keypoint_names,
        train=None if data is None else data.train,
        val=None if data is None else data.val,
        data_name=dataset_name(config),
        max_detections=config.validation.max_detections,
        options=options or _options(config),
        publish_if=publish_if,
    )
    return publish(export, config.model_repository, config.name, display)


def publish(export: Export, repository: Path, name: str, display: Display) -> Bundle:
    """Exports, checks and publishes as the next version of `name` in `repository`.

    An export that trades accuracy is compared with the network as trained by AP alone. Raises GateError when an
    exported file differs from the network or a trade costs too much, NotBetter where only a better one is wanted; then
    nothing is published. Raises ValueError for a trade that gives up nothing, or without the data that it needs.
    """
    options, trades, say = export.options, export.options.trades, display.say
    traded = _traded(export)
    steps = 4 + 2 * traded.options.torchscript + (trades.int8 != "alone") + (export.val is not None)
    with (
        tempfile.TemporaryDirectory(prefix="maskserve-export-") as folder,
        display.bar("publishing", steps) as done,
    ):
        staging = Path(folder)
        trained_outcome = measure(EagerEngine(export.model), export, "trained network", display)
        done(1)
        _write_files(traded, staging, say)
        eager = EagerEngine(traded.model)
        reference = Reference(eager, traded.images, traded.preprocessing)
        if trades.int8 == "alone":
            _quantize(traded, reference, staging, display)
        done(2)
        task = export.architecture.task
        engines: list[Engine] = [OnnxEngine(staging / MODEL_FILES["onnx"], task, "cpu", None)]
        if traded.options.torchscript:
            engines.append(TorchScriptEngine(staging / MODEL_FILES["torchscript"], task, "cpu", None))
        checks: dict[str, ExportCheck] = {}
        thresholds: dict[str, float] = {}
        evaluations: list[Evaluation] = []
        for number, engine in enumerate(engines):
            difference = compare(reference, engine, engine.name, display)
            done(3 + 2 * number)
            outcome = measure(engine, traded, engine.name, display)
            done(4 + 2 * number)
            deltas = {}
            if outcome is not None and trained_outcome is not None:
                deltas = ap_differences(trained_outcome.metrics.headline(), outcome.metrics.headline())
                evaluations.append(evaluation(traded, outcome, engine.name))
                thresholds = thresholds or _best_thresholds(traded, outcome)  # the first engine's, which is served
            if trades.int8 != "alone":
                require(engine.name, difference, {} if trades else deltas)
            if trades:
                require_affordable(engine.name, deltas, task, trades.most_ap_lost, say)
            checks[engine.name] = export_check(difference, len(export.images), deltas, task)
            engine.close()
        measured = Measured()
        others: dict[str, Mapping[str, float]] = {}
        if trades.int8 != "alone":
            half = EmulatedHalf(traded.model)
            if evaluations and options.measure_half:
                measured.precisions |= measure_half(traded, half, evaluations[0], display)
            write_references(traded, eager, half, staging, display)
            done(steps - (export.val is not None))
        if trained_outcome is not None:
            trained = trained_outcome.metrics.headline()
            if trades.int8 == "beside":
                add_int8(traded, reference, staging, evaluations[0], trained, measured, display)
            precision: Literal["bf16", "int8"] = "int8" if trades.int8 == "alone" else "bf16"
            found = by_openvino(traded, reference, staging / NETWORK_FILE, precision, trained, display)
            if trades.int8 == "alone" and isinstance(found, EngineEvaluation):
                assert found.export_check is not None
                others[found.engine] = found.export_check.ap_deltas
            else:
                measured.has(precision, found, evaluations[0])
            done(steps)
        if export.publish_if is not None:
            figures = evaluations[0].metrics if evaluations else {}
            candidate = Candidate(task, export.class_names, export.val, export.max_detections, figures)
            compare_with_served(candidate, repository, name, export.publish_if, display)
        draft = ManifestDraft(
            architecture=traded.architecture,
            class_names=export.class_names,
            keypoint_names=export.keypoint_names if has_keypoints(task) else (),
            preprocessing=traded.preprocessing,
            defaults=ServingDefaults(
                max_detections=export.architecture.detections_per_image, score_thresholds=thresholds
            ),
            provenance=export.provenance,
            object_diameter=None if export.train is None else median_diameter(export.train, export.architecture),
            evaluation=tuple(evaluations),
            export_check=checks["onnx"],
            trades=trades.record(checks["onnx"].ap_deltas, len(export.train or ()), others) if trades else None,
            precisions=measured.precisions,
            unmeasured=tuple(measured.unmeasured),
        )
        return publish_bundle(staging, draft, repository, name, describe_onnx)


def _options(config: TrainConfig) -> ExportOptions:
    """What a run's configuration wishes."""
    return ExportOptions(
        config.export_half,
        references=config.export_references,
        measure_half=config.export_f16,
        trades=TradeOptions("beside" if config.export_int8 else None),
    )


def round_to_half(model: Detector) -> None:
    """Rounds what `export_onnx` stores as fp16, in place, so that all files of a bundle hold the same numbers."""
    for tensor in model.state_dict().values():
        if is_half_storable(tensor.detach().cpu().numpy()):
            tensor.copy_(tensor.half())


def _traded(export: Export) -> Export:
    """What is exported: the same weights, in the network that the trades leave. Without trades, `export` itself."""
    options, trades = export.options, export.options.trades
    if trades.is_measured and (export.train is None or export.val is None):
        raise ValueError(
            "an export that trades accuracy is compared with the trained network by AP: give --data, a dataset with a "
            "validation split"
        )
    if not trades:
        return export
    architecture = traded_architecture(export.architecture, trades)
    options = replace(options, torchscript=options.torchscript and trades.int8 != "alone")
    return replace(export, model=rebuilt(export.model, architecture), architecture=architecture, options=options)


def _write_files(export: Export, staging: Path, say: Callable[[str], object]) -> None:
    options = export.options
    if options.half:
        round_to_half(export.model)
    say("exporting ONNX")
    # Quantizing folds the batch norms into the weights, and stores what it leaves in fp32 as fp16 by itself.
    export_onnx(
        export.model, staging / MODEL_FILES["onnx"], half_storage=options.half and options.trades.int8 != "alone"
    )
    if options.torchscript:
        say("exporting TorchScript")
        export_torchscript(export.model, staging / MODEL_FILES["torchscript"])
    if options.weights:
        save_whole(lambda buffer: torch.save(export.model.state_dict(), buffer), staging / WEIGHTS_FILE)


def _quantize(export: Export, reference: Reference, staging: Path, display: Display) -> None:
    """model.onnx to INT8 in place, once it has answered as the network does."""
    assert export.train is not None
    file = staging / MODEL_FILES["onnx"]
    engine = OnnxEngine(file, export.architecture.task, "cpu", None)
    require("onnx", compare(reference, engine, "onnx in fp32", display), {})
    engine.close()
    wanted = export.options.trades.calibration_images
    display.say(f"quantizing to INT8 on {min(wanted, len(export.train))} training images; TorchScript is left out")
    batches = calibration_batches(export.train, export.preprocessing, wanted)
    quantize_int8(file, file, batches, half_storage=export.options.half)


def _best_thresholds(export: Export, outcome: Outcome) -> dict[str, float]:
    """For each class the threshold that maximizes F1 on the validation split; what was never found has none."""
    assert export.val is not None
    matches = match_detections(export.val, outcome.detections, MATCHED_BY[export.architecture.task])
    return best_thresholds(matches, export.class_names, SCORE_THRESHOLD)
