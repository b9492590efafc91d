"""The network that is about to be published beside the version that the model repository serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.architecture import Task
from model.runtime.bundles.bundle import Bundle, BundleError
from model.runtime.bundles.manifest import Manifest
from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from training.config import PublishIf
from training.data.annotations.dataset import Dataset
from training.evaluation.validation import main_kind, validate
from training.progress import Display


class NotBetter(Exception):
    """What was trained is not published, by --publish_if better; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be published. figures: its COCO AP (0..1) on `val`, such as {"mask/AP": 0.31}; empty without `val`."""

    task: Task
    class_names: tuple[str, ...]
    val: Dataset | None
    max_detections: int
    figures: Mapping[str, float]


def compare_with_served(
    candidate: Candidate, repository: Path, name: str, publish_if: PublishIf, display: Display
) -> None:
    """Evaluates the version of `name` that is served on the candidate's validation images, and says how both do.

    Raises NotBetter where only a better one is wanted and this is not, or cannot be said to be. The same is not better.
    """
    served = served_version(repository, name)
    if served is None:
        return
    version = f"{name}/{served.manifest.version}"
    reason = incomparable(served.manifest, candidate.task, candidate.class_names, candidate.val)
    if reason is not None or candidate.val is None:
        display.say(f"not compared with {version}, which is served: {reason}")
        if publish_if == "better":
            raise NotBetter(f"not published: nobody can say whether it is better than {version} (--publish_if better)")
        return
    with display.bar(f"AP: {version}", len(candidate.val)) as done:
        predictor = Predictor.of_bundle(served, "onnx", "cpu")
        most = candidate.max_detections
        outcome = validate(predictor, candidate.val, candidate.task, max_detections=most, progress=done)
    metric = f"{main_kind(candidate.task)}/AP"
    reached, theirs = candidate.figures[metric], outcome.metrics.headline()[metric]
    display.say(
        f"{metric} {reached:.4f}; {version}, which is served, has {theirs:.4f} on the same images: "
        f"{100 * (reached - theirs):+.2f} points"
    )
    if publish_if == "better" and not reached > theirs:
        raise NotBetter(f"not published: not better than {version} (--publish_if better)")


def served_version(repository: Path, name: str) -> Bundle | None:
    """The version that a server of this repository answers with: the highest that is whole; None without one."""
    if not repository.is_dir():
        return None
    found = Repository(repository)
    for version in reversed(found.models().get(name, ())):
        try:
            return found.get(name, version)
        except BundleError:
            continue  # a server refuses it too, and keeps the one before
    return None


def incomparable(served: Manifest, task: Task, class_names: tuple[str, ...], val: Dataset | None) -> str | None:
    """Why no figure says which of the two is better; None where one does."""
    if val is None:
        return "there is no validation split to compare on"
    if served.class_names != class_names:
        return f"it knows the classes {', '.join(served.class_names)}, and this run {', '.join(class_names)}"
    if main_kind(served.architecture.task) != main_kind(task):
        return f"it is a model for {served.architecture.task}, and this run's for {task}"
    return None
