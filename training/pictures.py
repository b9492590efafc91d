"""Pictures of a run for people to look at: its curves, and what the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.runtime.detections import Detections
from model.runtime.rle import decode
from training.data.coco import CocoData
from training.data.loader import load_stored
from training.run_log import read_metrics

SAMPLE_SCORE = 0.5
"""Detections below this score are left out of the pictures."""

PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
"""Colour-blind safe (Okabe and Ito, Color Universal Design), by class or object."""


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


def draw_samples(data: CocoData, detections: Sequence[Detections], count: int, folder: Path) -> None:
    """The first `count` images, each beside itself with its detections, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for record, found in list(zip(data.images, detections, strict=True))[:count]:
        image = load_stored(record)
        pair = np.concatenate([image, overlay(image, found, data.class_names)], axis=1)
        Image.fromarray(pair).save(folder / f"{record.path.stem}.png")


def overlay(
    image: NDArray[np.uint8], detections: Detections, class_names: Sequence[str], score: float = SAMPLE_SCORE
) -> NDArray[np.uint8]:
    """`image` (uint8 [H, W, 3]) with masks tinted and outlined, and boxes where there are no masks; a new array.

    Colours tell classes apart, or objects where there is one class.
    """
    canvas = image.copy()
    shown = [row for row in range(len(detections)) if detections.scores[row] > score]
    groups = detections.labels - 1 if len(class_names) > 1 else np.arange(len(detections))
    colors = [PALETTE[group % len(PALETTE)] for group in groups.tolist()]
    for row in shown if detections.masks is not None else []:
        assert detections.masks is not None
        mask = decode(detections.masks[row])
        canvas[mask] = (0.6 * canvas[mask] + 0.4 * np.array(colors[row])).astype(np.uint8)
        canvas[outline(mask)] = colors[row]
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for row in shown:
        x1, y1, x2, y2 = (float(value) for value in detections.boxes[row])
        if detections.masks is None:
            draw.rectangle((x1, y1, x2, y2), outline=colors[row])
        if len(class_names) > 1:
            text = f"{class_names[int(detections.labels[row]) - 1]} {detections.scores[row]:.2f}"
            draw.text((x1 + 1, y1), text, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        for x, y, _logit in () if detections.keypoints is None else detections.keypoints[row].tolist():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colors[row])
    return np.asarray(picture)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask [H, W] that touch a pixel outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
