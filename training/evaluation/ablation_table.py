"""What ablation runs found, beside what the paper found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from rich.table import Table

FIGURES = ("AP", "AP50", "AP75")


@dataclass(frozen=True, slots=True)
class Variant:
    """A choice for each varied field: (field, value) pairs."""

    settings: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Such as "align, softmax"."""
        return ", ".join(value for _, value in self.settings)

    @property
    def folder(self) -> str:
        """Such as "roi_pooling=align,mask_loss=softmax"."""
        text = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in self.settings)
        return "".join(character if character.isalnum() or character in "._=,-" else "-" for character in text)

    def flags(self) -> list[str]:
        """For `training.train`."""
        return [part for field, value in self.settings for part in (f"--{field}", value)]


class Run(BaseModel):
    """One finished training run. figures: the last evaluation's, such as {"mask/AP": 0.31}, of 0..1."""

    settings: dict[str, str]
    seed: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class PaperFinding:
    """What one change did to mask AP in Mask R-CNN's ablations on COCO, in points."""

    field: str
    before: str
    after: str
    points: float
    where: str


PAPER = (
    PaperFinding("architecture.roi_pooling", "align", "pool", -3.4, "R50-C4, table 2c"),
    PaperFinding("architecture.mask_loss", "sigmoid", "softmax", -5.5, "R50-C4, table 2b"),
    PaperFinding("architecture.mask_classes", "specific", "agnostic", -0.6, "R50-C4, sec. 4.2"),
    PaperFinding("architecture.mask_head", "fcn", "mlp", -2.1, "R50-FPN, table 2e"),
    PaperFinding("architecture.features", "fpn", "c4", -3.3, "R50, table 2a"),
    PaperFinding("architecture.backbone", "resnet50", "resnet101", 1.8, "FPN, table 2a"),
)


def paper_says(baseline: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """The paper's difference for the one field that changed: "-3.4 (R50-C4, table 2c)"; "" where there is none."""
    changed = [field for field in settings if settings[field] != baseline[field]]
    if len(changed) != 1:
        return ""
    change = (changed[0], baseline[changed[0]], settings[changed[0]])
    for finding in PAPER:
        if (finding.field, finding.before, finding.after) == change:
            return f"{finding.points:+.1f} ({finding.where})"
        if (finding.field, finding.after, finding.before) == change:
            return f"{-finding.points:+.1f} ({finding.where})"
    return ""


def rows(runs: Sequence[Run], kind: str) -> list[list[str]]:
    """A row for each variant: name, mean and spread of AP, AP50 and AP75, the difference to the first, the paper's.

    Differences are taken seed by seed, so that what a seed does to every variant falls out. The spread is the sample
    standard deviation over seeds. All in points of `kind`'s AP.
    """
    by_variant: dict[Variant, dict[int, Run]] = {}
    for run in runs:
        by_variant.setdefault(Variant(tuple(run.settings.items())), {})[run.seed] = run
    baseline, first = next(iter(by_variant.items()))
    table = []
    for variant, of_seed in by_variant.items():
        cells = [variant.name]
        for figure in FIGURES:
            cells.append(_spread([100 * run.figures[f"{kind}/{figure}"] for run in of_seed.values()]))
        if variant == baseline:
            cells += ["", ""]
        else:
            key = f"{kind}/AP"
            shared = [seed for seed in of_seed if seed in first]
            differences = [100 * (of_seed[seed].figures[key] - first[seed].figures[key]) for seed in shared]
            cells += [_spread(differences, signed=True), paper_says(dict(baseline.settings), dict(variant.settings))]
        table.append(cells)
    return table


def headings(runs: Sequence[Run], kind: str) -> list[str]:
    """Of `rows`."""
    fields = ", ".join(field.rpartition(".")[2] for field in runs[0].settings)
    return [fields, *(f"{kind} {figure}" for figure in FIGURES), "difference", "the paper's (mask AP, COCO)"]


def ablation_table(runs: Sequence[Run], kind: str) -> Table:
    """For a terminal."""
    seeds = len({run.seed for run in runs})
    table = Table(title=f"{seeds} seeds each, mean ± standard deviation, in points")
    for heading in headings(runs, kind):
        table.add_column(heading)
    for row in rows(runs, kind):
        table.add_row(*row)
    return table


def table_markdown(runs: Sequence[Run], kind: str) -> str:
    """For a document."""
    columns = headings(runs, kind)
    lines = [columns, ["---"] * len(columns), *rows(runs, kind)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _spread(values: Sequence[float], *, signed: bool = False) -> str:
    mean = f"{statistics.mean(values):+.1f}" if signed else f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
