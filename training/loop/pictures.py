"""Pictures of a run for people to look at: its curves, and what the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.runtime.bundles.writing import naming, replace_file
from model.runtime.detections import Detections
from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.values.intensity import AUTO, Intensity
from training.data.annotations.dataset import Dataset
from training.data.formats.naming import Names
from training.evaluation.worst import draw_pair
from training.loop.run_log import read_metrics

SAMPLE_SCORE = 0.5
"""Detections below this score are left out of the pictures."""

GAP, TITLE = 4, 18
"""Pixels between two pictures, and of the line above them."""


def draw_curves(metrics: Path, target: Path) -> None:
    """Losses on the left, AP on the right, over iterations, as a PNG."""
    curves = read_metrics(metrics)
    figure = Figure(figsize=(11, 4))  # laid out by itself it would be drawn twice
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.12, top=0.92, wspace=0.14)
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
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    replace_file(target, picture.getvalue())


def draw_samples(
    data: Dataset,
    detections: Sequence[Detections],
    count: int,
    folder: Path,
    intensity: Intensity = AUTO,
    channels: int = RGB_CHANNELS,
) -> None:
    """The first `count` images as PNG files in `folder`: left with what is annotated, right with what was found. Of
    several channels the first three are seen."""
    folder.mkdir(parents=True, exist_ok=True)
    thresholds = [SAMPLE_SCORE] * len(data.class_names)
    names = Names(stems=False)
    for position, found in enumerate(detections[:count]):
        pair = draw_pair(data, position, found, thresholds, intensity, channels)
        sheet = titled(pair, (f"annotated, {len(data.annotations[position])}", f"found above {SAMPLE_SCORE:g}"))
        file = folder / names.free(f"{data.images[position].path.stem}.png")
        with naming(file):
            sheet.save(file)


def titled(pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size, uint8 [h, w, 3], side by side with a line of text above each."""
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + TITLE), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = number * (width + GAP)
        draw.text((left + 2, 2), title, fill="black", font_size=TITLE - 6)
        sheet.paste(Image.fromarray(picture), (left, TITLE))
    return sheet
