"""Checkpoint -> staged files -> gate -> bundle. A failed gate publishes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from model.architecture import PRESETS, ArchitectureConfig, has_keypoints
from model.network.build import Detector, build_model
from model.network.engine import EagerEngine
from model.network.export import export_onnx, export_torchscript, is_half_storable
from model.network.weights import WEIGHTS_FILE
from model.runtime.bundle import Bundle, publish_bundle
from model.runtime.engines import MODEL_FILES, Engine
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.engines.torchscript import TorchScriptEngine
from model.runtime.manifest import Evaluation, ExportCheck, ManifestDraft, Provenance, ServingDefaults
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.data.coco import CocoData
from training.data.samples import load_stored
from training.data.source import TrainingData
from training.gate import AP_TOLERANCE, TOLERANCE, Difference, Tolerance, ap_differences, compare_engines, export_check
from training.matching import MATCHED_BY, match_detections
from training.operating_point import best_thresholds
from training.validation import SCORE_THRESHOLD, Outcome, validate

GATE_IMAGES = 8
GENERATED_SIDES = ((320, 320), (240, 320), (320, 200), (280, 256))
"""(height, width) of the gate's generated images where a model comes without data."""


class GateError(Exception):
    """The exported files do not answer as the trained network does; the message says what differed."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """half: store model.onnx's weights as fp16. torchscript, weights: put those files into the bundle too."""

    half: bool = False
    torchscript: bool = True
    weights: bool = True


@dataclass(frozen=True, slots=True)
class Export:
    """A trained network on its way into a bundle. `val` and `images` are what the gate compares on."""

    model: Detector
    architecture: ArchitectureConfig
    class_names: tuple[str, ...]
    provenance: Provenance
    images: Sequence[NDArray[np.uint8]]
    keypoint_names: tuple[str, ...] = ()
    val: CocoData | None = None
    max_detections: int = 100
    options: ExportOptions = ExportOptions()


def publish_run(
    config: TrainConfig,
    data: TrainingData | None,
    checkpoint: Path,
    say: Callable[[str], object],
    options: ExportOptions | None = None,
) -> Bundle:
    """Publishes a run's checkpoint into its model repository; without `data` the gate uses generated images and no AP.

    Raises GateError, and CheckpointError when the checkpoint cannot be read.
    """
    loaded = load_checkpoint(checkpoint)
    model = build_model(config.architecture)
    model.load_state_dict(loaded.published_state)
    images = generated_images()
    if data is not None:
        source = data.train if data.val is None else data.val
        images = [load_stored(record) for record in source.images[:GATE_IMAGES]]
    export = Export(
        model=model.eval(),
        architecture=config.architecture,
        class_names=loaded.class_names,
        provenance=provenance(config, None if data is None else data.train, loaded.iteration),
        images=images,
        keypoint_names=loaded.keypoint_names,
        val=None if data is None else data.val,
        max_detections=config.validation.max_detections,
        options=options or ExportOptions(half=config.export_half),
    )
    return publish(export, config.model_repository, config.name, say)


def publish(export: Export, repository: Path, name: str, say: Callable[[str], object]) -> Bundle:
    """Exports, checks and publishes as the next version of `name` in `repository`.

    Raises GateError when an exported file differs from the network; then nothing is published.
    """
    preprocessing, options = Preprocessing.from_architecture(export.architecture), export.options
    with tempfile.TemporaryDirectory(prefix="maskserve-export-") as folder:
        staging = Path(folder)
        trained = EagerEngine(export.model)
        trained_outcome = _measure(trained, preprocessing, export, "trained network", say)
        if options.half:
            round_to_half(export.model)
        say("exporting ONNX")
        export_onnx(export.model, staging / MODEL_FILES["onnx"], half_storage=options.half)
        if options.torchscript:
            say("exporting TorchScript")
            export_torchscript(export.model, staging / MODEL_FILES["torchscript"])
        if options.weights:
            torch.save(export.model.state_dict(), staging / WEIGHTS_FILE)

        reference = EagerEngine(export.model)
        task = export.architecture.task
        engines: list[Engine] = [OnnxEngine(staging / MODEL_FILES["onnx"], task, "cpu", None)]
        if options.torchscript:
            engines.append(TorchScriptEngine(staging / MODEL_FILES["torchscript"], task, "cpu", None))
        checks: dict[str, ExportCheck] = {}
        thresholds: dict[str, float] = {}
        evaluations: list[Evaluation] = []
        for engine in engines:
            difference = compare_engines(reference, engine, export.images, preprocessing)
            say(f"{engine.name} against eager: {difference}")
            outcome = _measure(engine, preprocessing, export, engine.name, say)
            deltas = {}
            if outcome is not None and trained_outcome is not None:
                deltas = ap_differences(trained_outcome.metrics.headline(), outcome.metrics.headline())
                evaluations.append(_evaluation(export, outcome, engine.name))
                thresholds = thresholds or _best_thresholds(export, outcome)  # the first engine's, which is served
            require(engine.name, difference, deltas)
            checks[engine.name] = export_check(difference, len(export.images), deltas, task)
            engine.close()
        draft = ManifestDraft(
            architecture=export.architecture,
            class_names=export.class_names,
            keypoint_names=export.keypoint_names if has_keypoints(task) else (),
            preprocessing=preprocessing,
            defaults=ServingDefaults(
                max_detections=export.architecture.detections_per_image, score_thresholds=thresholds
            ),
            provenance=export.provenance,
            evaluation=tuple(evaluations),
            export_check=checks["onnx"],
        )
        return publish_bundle(staging, draft, repository, name)


def require(
    engine: str, difference: Difference, ap_deltas: Mapping[str, float], tolerance: Tolerance = TOLERANCE
) -> None:
    """Raises GateError, saying what differed, unless the differences are within `tolerance` and 0.1 point of AP."""
    wrong = difference.exceeds(tolerance)
    wrong += [
        f"{name} changes by {100 * delta:+.2f} points (allowed {100 * AP_TOLERANCE:g})"
        for name, delta in ap_deltas.items()
        if abs(delta) > AP_TOLERANCE
    ]
    if wrong:
        raise GateError(f"the {engine} export is not the trained network, nothing was published: {'; '.join(wrong)}")


def round_to_half(model: Detector) -> None:
    """Rounds what `export_onnx` stores as fp16, in place, so that all files of a bundle hold the same numbers."""
    for tensor in model.state_dict().values():
        if is_half_storable(tensor.detach().cpu().numpy()):
            tensor.copy_(tensor.half())


def provenance(config: TrainConfig, data: CocoData | None, iterations: int) -> Provenance:
    """What the manifest says about where a run's weights come from; counts are left out where `data` is not at hand."""
    generated = "figures" if config.architecture.has_keypoints else "shapes"
    return Provenance(
        dataset=config.data.name if config.data else f"generated {generated}",
        license=config.license or ("unstated" if config.data else "generated, none needed"),
        images=None if data is None else len(data),
        instances=None if data is None else sum(len(annotations) for annotations in data.annotations),
        recipe=config.name,
        iterations=iterations,
        seed=config.seed,
        initial_weights=_initial_weights(config.start_from),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
    )


def _initial_weights(start_from: str) -> str | None:
    """What the manifest says of them; of a file its name alone, for folders are nobody else's business."""
    if start_from == "random":
        return None
    if start_from.partition(":")[0] == "imagenet":
        return f"torchvision {start_from} backbone"
    return f"torchvision {start_from}" if start_from.partition(":")[0] in PRESETS else Path(start_from).name


def generated_images(seed: int = 0) -> list[NDArray[np.uint8]]:
    """Images for the gate where a model comes without data: smooth blobs over noise, uint8 [H, W, 3], several sizes."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(GATE_IMAGES):
        height, width = GENERATED_SIDES[number % len(GENERATED_SIDES)]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        picture = rng.normal(110, 12, (height, width, 3)).astype(np.float32)
        for _ in range(6):
            center, radius = rng.uniform(0, (height, width)), rng.uniform(15, 90)
            blob = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * radius**2))
            picture += blob[..., None] * rng.uniform(-140, 140, 3).astype(np.float32)
        images.append(picture.clip(0, 255).astype(np.uint8))
    return images


def _measure(
    engine: Engine, preprocessing: Preprocessing, export: Export, what: str, say: Callable[[str], object]
) -> Outcome | None:
    if export.val is None:
        return None
    outcome = validate(
        Predictor(engine, preprocessing), export.val, export.architecture.task, max_detections=export.max_detections
    )
    figures = {name: value for name, value in outcome.metrics.headline().items() if name.endswith(("/AP", "/AP50"))}
    say(f"{what} on {export.val.name}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return outcome


def _best_thresholds(export: Export, outcome: Outcome) -> dict[str, float]:
    """For each class the threshold that maximizes F1 on the validation split; what was never found has none."""
    assert export.val is not None
    matches = match_detections(export.val, outcome.detections, MATCHED_BY[export.architecture.task])
    return best_thresholds(matches, export.class_names, SCORE_THRESHOLD)


def _evaluation(export: Export, outcome: Outcome, engine: str) -> Evaluation:
    assert export.val is not None
    return Evaluation(
        dataset=export.val.name,
        images=len(export.val),
        command=f"python -m training.evaluate --model BUNDLE --data DIR --engine {engine} "
        f"--max_detections {export.max_detections}",
        engine=engine,
        metrics=outcome.metrics.headline(),
    )
