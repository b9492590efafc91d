"""An evaluation as a page: figures, curves, confusions and pictures of the worst images, in one file.

It fetches nothing, runs no script, and follows the reader's choice of light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from model.console.outputs import write_whole
from model.runtime.detections import Detections
from training.data.annotations.dataset import Dataset
from training.data.checking.overwriting import COMMENT
from training.evaluation.curve import curve_svg
from training.evaluation.evaluation import Metrics
from training.evaluation.instances import Instances
from training.evaluation.matching import Matches
from training.evaluation.operating_point import OperatingPoint
from training.evaluation.tables import FIGURES, INSTANCE_FIGURES, confusions, instance_rows, shown
from training.evaluation.worst import draw_pair, jpeg_url, worst_images

PAGE = "index.html"
WORST_IMAGES = 8
MATRIX_CLASSES = 12
"""With more classes, confusions are a list of pairs: a larger matrix is all zeros to the eye."""
MOST_PAIRS = 40

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d5dae0; --raised: #f4f6f8;
  --accent: #0072b2; --mark: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e8eaed; --soft: #a4adb8; --rule: #363d46;
  --raised: #1d2127; --accent: #56b4e9; --mark: #e69f00; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; margin: .3rem 0 .8rem; color: var(--soft); }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .25rem .4rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td.name { text-align: left; }
thead th { background: var(--raised); white-space: normal; vertical-align: bottom; }
tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; max-width: 16rem; }
td.hit { font-weight: 600; color: var(--accent); }
td.error { font-weight: 600; color: var(--mark); }
@media (max-width: 64rem) { th, td { padding: .25rem .3rem; } }
@media print { .scroll { overflow: visible; } th, td { padding: .2rem .3rem; font-size: 11px; } }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figcaption { margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { width: 100%; max-width: 18rem; font-size: 10px; fill: var(--soft); }
svg .grid { stroke: var(--rule); fill: none; }
svg .line { stroke: var(--accent); stroke-width: 2; fill: none; }
svg .dot { fill: var(--mark); stroke: var(--ground); }
.image { margin-top: 1.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: .75rem; }
.pair > div { display: flex; flex-direction: column; color: var(--soft); }
.pair img { width: 100%; height: auto; display: block; image-rendering: auto; }
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows: an evaluation's figures, and each image's detections and matches in the dataset's order."""

    title: str
    data: Dataset
    detections: Sequence[Detections]
    matches: Sequence[Matches]
    metrics: Metrics
    point: OperatingPoint
    instances: Instances


def write_report(folder: Path, report: Report) -> Path:
    """Writes the page into `folder`, which is made, and returns its path. Raises UnreadableImage and OSError."""
    page = folder / PAGE
    write_whole(page, _page(report).encode())
    return page


def _page(report: Report) -> str:
    data, point = report.data, report.point
    objects = sum(one.matched + one.missed for one in point.classes)
    title = escape(report.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{COMMENT}">
<title>{title}: evaluation</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{escape(data.name)}: {_number(len(data), "image")}, {_number(objects, "object")}</p>
<h2>COCO figures</h2>
{_figures(report.metrics)}
<h2>Classes</h2>
<p>Found, missed and false are counted above each class's threshold, where a detection and an object of one class match
at an IoU of {point.iou:g}. The best threshold is the one that maximizes F1 on these images.</p>
{_classes(report.metrics, point)}
<h2>Objects told apart</h2>
<p>At the same thresholds. Accuracy is TP / (TP + FP + FN) at an IoU; PQ is panoptic quality, SQ times RQ; AJI is the
aggregated Jaccard index, the mean over images.</p>
{_instances(report.instances)}
<h2>Precision and recall</h2>
<p>At IoU {point.iou:g}; the dot is at the class's threshold.</p>
<div class="curves">
{_curves(point)}
</div>
{_confusion(point)}
<h2>Worst images</h2>
{_worst(report)}
</main>
</body>
</html>
"""


def _figures(metrics: Metrics) -> str:
    measured = metrics.measured()
    rows = [(figure, *(shown(getattr(one, figure)) for one in measured.values())) for figure in FIGURES]
    most = ", ".join(f"{one.max_detections[-1]} ({kind})" for kind, one in measured.items())
    return (
        f"<p>AP and AR are means over IoU 0.50 to 0.95 (OKS of keypoints), s for objects of up to 32² pixels, m up to "
        f"96², l above. Detections counted in an image and class: {most}. A dash: nothing to measure.</p>"
        f"{_table('Average precision and recall', ('', *measured), map(_row, rows))}"
    )


def _classes(metrics: Metrics, point: OperatingPoint) -> str:
    measured = metrics.measured()
    head = ["class", *(f"{kind} AP" for kind in measured), "threshold", "found", "missed", "false"]
    head += ["precision", "recall", "F1", "best threshold", "best F1"]
    rows = []
    for index, one in enumerate(point.classes):
        figures = [shown(kind.per_class[index].AP) for kind in measured.values()]
        best = "-" if one.best_threshold is None else f"{one.best_threshold:g}"
        counts = [f"{one.threshold:g}", *map(str, (one.matched, one.missed, one.false))]
        shares = [shown(one.precision), shown(one.recall), shown(one.F1), best, shown(one.best_F1)]
        rows.append(_row((one.name, *figures, *counts, *shares)))
    return _table("AP of each class, and what happens at its threshold", head, rows)


def _instances(found: Instances) -> str:
    head = ("class", *(name.replace("acc", "accuracy") for name in INSTANCE_FIGURES))
    rows = [_row((name, *figures)) for name, figures in instance_rows(found)]
    return _table("How well objects are told apart", head, rows)


def _curves(point: OperatingPoint) -> str:
    return "\n".join(
        f"<figure><figcaption>{escape(one.name)}</figcaption>{curve_svg(one)}</figure>" for one in point.classes
    )


def _confusion(point: OperatingPoint) -> str:
    """Nothing for a single class, which the table of classes says all about."""
    classes = len(point.classes)
    if classes == 1:
        return ""
    if classes > MATRIX_CLASSES:
        pairs = [_row((truth, taken, str(count)), names=2) for truth, taken, count in confusions(point)[:MOST_PAIRS]]
        body = _table("Objects that were taken for another class", ("object", "taken for", "objects"), pairs)
    else:
        names = [one.name for one in point.classes]
        rows = []
        for truth, (name, counts) in enumerate(zip([*names, "(no object)"], point.confusion, strict=True)):
            cells = [_cell(count, truth == taken) for taken, count in enumerate(counts)]
            if truth == classes:
                cells[-1] = "<td></td>"
            rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
        body = _table("Rows: what is there. Columns: what was found.", ("", *names, "(missed)"), rows)
    return f"<h2>Confusion</h2>\n{body}"


def _cell(count: int, right: bool) -> str:
    kind = "" if not count else ' class="hit"' if right else ' class="error"'
    return f"<td{kind}>{count}</td>"


def _worst(report: Report) -> str:
    thresholds = [one.threshold for one in report.point.classes]
    worst = worst_images(report.matches, thresholds, WORST_IMAGES)
    if not worst:
        return "<p>None: every object was found, and nothing else.</p>"
    parts = [f"<p>The {len(worst)} images of the lowest F1. Left what is there, right what was found.</p>"]
    for position, counts in worst:
        name = escape(report.data.images[position].file)
        truth, found = draw_pair(report.data, position, report.detections[position], thresholds)
        said = f"{counts.matched} found, {counts.missed} missed, {counts.false} false"
        parts.append(
            f'<figure class="image"><figcaption><strong>{name}</strong>: {said}; F1 {counts.f1():.2f}</figcaption>'
            f'<div class="pair"><div>annotated<img src="{jpeg_url(truth)}" alt="{name} with its annotated objects">'
            f'</div><div>found<img src="{jpeg_url(found)}" alt="{name} with what was found: {said}"></div></div>'
            f"</figure>"
        )
    return "\n".join(parts)


def _table(caption: str, head: Iterable[str], rows: Iterable[str]) -> str:
    """Wide tables scroll by themselves, by keyboard too, and leave the page in place."""
    heads = "".join(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(cells: Sequence[str], names: int = 1) -> str:
    """A table row: the first cell names it, and the next ones up to `names` are words as well."""
    words = "".join(f'<td class="name">{escape(text)}</td>' for text in cells[1:names])
    numbers = "".join(f"<td>{escape(text)}</td>" for text in cells[names:])
    return f'<tr><th scope="row">{escape(cells[0])}</th>{words}{numbers}</tr>'


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
