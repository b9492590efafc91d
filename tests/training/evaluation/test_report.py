"""The page of a report: complete by itself, well-formed, right, and safe whatever classes are called."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.runtime.detections import Detections
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.shapes import write_shapes
from training.evaluation.curve import curve_svg
from training.evaluation.evaluation import ALL_KINDS, evaluate_detections
from training.evaluation.instances import instances
from training.evaluation.matching import match_detections
from training.evaluation.operating_point import operating_point
from training.evaluation.report import MATRIX_CLASSES, WORST_IMAGES, Report, write_report
from training.evaluation.worst import MAX_SIDE, draw_pair

VOID = {"meta", "img", "br"}
HOSTILE = '<script>alert("&")</script>'


class _Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve images of shapes; one class has a name to trip over."""
    folder = tmp_path_factory.mktemp("report") / "data"
    write_shapes(folder, train=1, val=12, seed=3)
    split = find_splits(folder, "masks").val
    assert split is not None
    loaded = load_coco(*split)
    first, *others = loaded.categories
    return replace(loaded, categories=(replace(first, name=HOSTILE), *others))


def _guesses(data: Dataset, seed: int = 0) -> list[Detections]:
    """The truth, but for objects that are left out, taken for another class or in the wrong place; image 0 is right."""
    rng = np.random.default_rng(seed)
    results = []
    for number, (image, objects) in enumerate(zip(data.images, data.annotations, strict=True)):
        kept = np.flatnonzero((rng.random(len(objects)) < 0.8) | (number == 0))
        labels = objects.labels[kept].copy()
        wrong = (rng.random(len(kept)) < 0.3) & (number > 0)
        labels[wrong] = rng.integers(1, len(data.categories) + 1, wrong.sum())
        scores = np.sort(rng.uniform(0.6 if number == 0 else 0.3, 1, len(kept)).astype(np.float32))[::-1]
        masks = objects.rles(image.height, image.width)
        results.append(Detections(objects.boxes[kept], scores, labels, [masks[row] for row in kept]))
    return results


def _report(data: Dataset, detections: list[Detections], threshold: float | None = 0.5) -> Report:
    matches = match_detections(data, detections, "mask")
    point = operating_point(matches, data.class_names, 0.05, 0.5, threshold)
    metrics = evaluate_detections(data, detections, ALL_KINDS["masks"])
    apart = instances(matches, data.class_names, [one.threshold for one in point.classes])
    return Report(f"model/1 {HOSTILE}", data, detections, matches, metrics, point, apart)


def _text(report: Report, folder: Path) -> str:
    return write_report(folder / "new" / "folder", report).read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(data: Dataset, tmp_path: Path) -> None:
    text = _text(_report(data, _guesses(data)), tmp_path)
    page = _Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    assert "url(" not in text
    assert "@import" not in text
    assert len(list(tmp_path.rglob("*.*"))) == 1


def test_tables_and_pictures_have_names(data: Dataset, tmp_path: Path) -> None:
    page = _Page(_text(_report(data, _guesses(data)), tmp_path))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) >= 3
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    assert [svg["role"] for svg in page.all("svg")] == ["img"] * len(data.categories)
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert any(HOSTILE in words for words in page.words)  # as text


def test_the_figures_are_the_evaluations(data: Dataset, tmp_path: Path) -> None:
    report = _report(data, _guesses(data))
    words = _Page(_text(report, tmp_path)).words
    for figures in report.metrics.measured().values():
        assert f"{figures.AP:.4f}" in words
        assert all(f"{one.AP:.4f}" in words for one in figures.per_class)
    for one in report.point.classes:
        assert f"{one.F1:.4f}" in words
        assert f"{one.best_threshold:g}" in words
    for apart in (*report.instances.classes, report.instances.mean):
        assert {f"{value:.3f}" for value in (apart.PQ, apart.AJI, apart.at[2].accuracy, apart.at[0].F1)} <= set(words)


def test_the_worst_images_are_shown_and_the_faultless_are_not(data: Dataset, tmp_path: Path) -> None:
    text = _text(_report(data, _guesses(data)), tmp_path)
    names = re.findall(r"<strong>([^<]*)</strong>", text)
    assert 1 < len(names) <= WORST_IMAGES
    assert data.images[0].file not in names
    f1 = [float(value) for value in re.findall(r"; F1 ([\d.]+)<", text)]
    assert f1 == sorted(f1)
    addresses = [image["src"] or "" for image in _Page(text).all("img")]
    assert len(addresses) == 2 * len(names)
    with Image.open(io.BytesIO(base64.b64decode(addresses[0].partition("base64,")[2]))) as picture:
        assert max(picture.size) <= MAX_SIDE


def test_perfect_detections_have_no_worst_images(data: Dataset, tmp_path: Path) -> None:
    perfect = [
        Detections(o.boxes, np.ones(len(o), np.float32), o.labels, o.rles(i.height, i.width))
        for i, o in zip(data.images, data.annotations, strict=True)
    ]
    page = _Page(_text(_report(data, perfect), tmp_path))
    assert not page.all("img")
    assert any("every object was found" in words for words in page.words)


def test_no_detections_at_all(data: Dataset, tmp_path: Path) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])
    page = _Page(_text(_report(data, [nothing] * len(data), None), tmp_path))
    assert len(page.all("img")) == 2 * WORST_IMAGES


def test_many_classes_have_a_list_of_confusions_and_not_a_matrix(data: Dataset, tmp_path: Path) -> None:
    more = tuple(replace(data.categories[0], id=100 + n, name=f"extra {n}") for n in range(MATRIX_CLASSES))
    many = replace(data, categories=(*data.categories, *more))
    report = _report(many, _guesses(data))
    words = _Page(_text(report, tmp_path)).words
    assert "Objects that were taken for another class" in words
    assert "(no object)" not in words
    assert "(no object)" in _Page(_text(_report(data, _guesses(data)), tmp_path / "few")).words


def test_a_pair_shows_what_is_annotated_and_what_scores_enough(data: Dataset) -> None:
    detections = _guesses(data)[0]
    classes = len(data.categories)
    truth, found = draw_pair(data, 0, detections, [0.0] * classes)
    assert truth.shape == found.shape == (data.images[0].height, data.images[0].width, 3)
    _, none = draw_pair(data, 0, detections, [0.9999] * classes)
    with Image.open(data.images[0].path) as picture:
        image = np.array(picture.convert("RGB"))
    np.testing.assert_array_equal(none, image)
    assert (truth != image).any()
    assert (found != image).any()


def test_a_curve_ends_where_recall_does(data: Dataset) -> None:
    one = _report(data, _guesses(data)).point.classes[1]
    svg = curve_svg(one)
    points = re.search(r'points="([^"]*)"', svg)
    assert points is not None
    reached = sum(value > 0 for value in one.curve.precision)
    assert len(points[1].split()) == reached < 101
    assert f"at score {one.threshold:g}" in svg
