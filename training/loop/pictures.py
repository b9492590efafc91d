"""Pictures of a run for people to look at: its curves, and what the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from model.runtime.detections import Detections
from model.runtime.images.intensity import AUTO, Intensity
from model.runtime.overlay import draw_overlay
from training.data.annotations.dataset import Dataset
from training.data.loading.samples import load_stored
from training.loop.run_log import read_metrics

SAMPLE_SCORE = 0.5
"""Detections below this score are left out of the pictures."""


def draw_curves(metrics: Path, target: Path) -> None:
    """Losses on the left, AP on the right, over iterations, as a PNG."""
    curves = read_metrics(metrics)
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, precision = figure.subplots(1, 2)
    for name, points in curves.items():
        if "loss" in name:
            losses.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == "loss" else 1)
        elif name.endswith(("/AP", "/AP50")):
            precision.plot(*zip(*points, strict=True), label=name.removeprefix("val/"), marker="o", markersize=3)
    losses.set(title="training loss", xlabel="iteration", yscale="log")
    precision.set(title="validation", xlabel="iteration", ylim=(0, 1))
    for axes in (losses, precision):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(target, dpi=100)


def draw_samples(
    data: Dataset, detections: Sequence[Detections], count: int, folder: Path, intensity: Intensity = AUTO
) -> None:
    """The first `count` images, each beside itself with its detections, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for record, found in list(zip(data.images, detections, strict=True))[:count]:
        image = load_stored(record, intensity)
        drawn = draw_overlay(image, _above(found, SAMPLE_SCORE), data.class_names)
        pair = np.concatenate([image, drawn], axis=1)
        Image.fromarray(pair).save(folder / f"{record.path.stem}.png")


def _above(found: Detections, score: float) -> Detections:
    """The detections that score more."""
    count = int((found.scores > score).sum())  # they come in falling score
    return Detections(
        found.boxes[:count],
        found.scores[:count],
        found.labels[:count],
        None if found.masks is None else found.masks[:count],
        None if found.keypoints is None else found.keypoints[:count],
    )
