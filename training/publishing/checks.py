"""What every file of a bundle goes through: it is compared with the network, its AP is measured, it may be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from model.architecture import Task
from model.runtime.bundles.manifest import Evaluation, Precision
from model.runtime.engines.engine import Engine
from model.runtime.predict import Predictor
from training.evaluation.validation import Outcome, main_kind, validate
from training.progress import Display
from training.publishing.exported import Export
from training.publishing.gate import AP_TOLERANCE, BATCH_SIZES, TOLERANCE, Difference, Reference, Tolerance
from training.publishing.trades import points_lost


class GateError(Exception):
    """The exported files do not answer as the trained network does, or lose too much AP; the message says what."""


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


def require_affordable(
    engine: str, ap_deltas: Mapping[str, float], task: Task, most_ap_lost: float, say: Callable[[str], object]
) -> None:
    """Raises GateError, saying what was lost, where a trade costs more than `most_ap_lost` points of the task's AP."""
    lost, metric = points_lost(ap_deltas, task), f"{main_kind(task)}/AP"
    say(f"{engine} against the network as trained: {metric} {-lost:+.2f} points")
    if lost > most_ap_lost:
        raise GateError(
            f"the {engine} export loses {lost:.2f} points of {metric} to the network as trained, --most_ap_lost allows "
            f"{most_ap_lost:g}: nothing was published"
        )


def compare(reference: Reference, engine: Engine, what: str, display: Display) -> Difference:
    """How far `engine` is from the network in torch, on the images of the gate; says so too."""
    with display.bar(f"comparing {what}", len(BATCH_SIZES)) as done:
        difference = reference.compare(engine, done)
    display.say(f"{what} against eager: {difference}")
    return difference


def measure(engine: Engine, export: Export, what: str, display: Display) -> Outcome | None:
    """COCO figures on the validation split, None where there is none; says the AP too."""
    if export.val is None:
        return None
    predictor, task = Predictor(engine, export.preprocessing), export.architecture.task
    with display.bar(f"AP: {what}", len(export.val)) as done:
        outcome = validate(predictor, export.val, task, max_detections=export.max_detections, progress=done)
    figures = {name: value for name, value in outcome.metrics.headline().items() if name.endswith(("/AP", "/AP50"))}
    display.say(f"{what} on {export.val.name}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return outcome


def evaluation(export: Export, outcome: Outcome, engine: str, precision: Precision = "f32") -> Evaluation:
    """An outcome as the manifest keeps it."""
    assert export.val is not None
    flags = "" if precision == "f32" else f" --precision {precision}"
    return Evaluation(
        dataset=f"{export.data_name}: {export.val.name}" if export.data_name else export.val.name,
        images=len(export.val),
        command=f"maskserve evaluate --model BUNDLE --data DIR --engine {engine}{flags} "
        f"--max_detections {export.max_detections}",
        engine=engine,
        metrics=outcome.metrics.headline(),
    )
