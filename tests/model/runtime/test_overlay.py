"""Drawn detections: what is changed and what left alone, which color stands for what, at any size, on any picture."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from model.runtime.detections import RLE, Detections
from model.runtime.overlay import PALETTE, draw_overlay, to_png
from tests.model.runtime.overlays import (
    FEW,
    MANY,
    ONE,
    Bitmap,
    Box,
    Picture,
    changed,
    disc,
    found,
    gray,
    is_text,
    nearest_color,
    noise,
    of_masks,
)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_object_is_seen_through_its_tint(value: int) -> None:
    image = (value * 0.8 + noise() * 0.2).astype(np.uint8)
    mask = disc(128, 150, 50)
    drawn = draw_overlay(image, of_masks([mask]), ONE)
    inside = disc(128, 150, 40)
    for channel in range(3):
        before, after = image[inside, channel], drawn[inside, channel]
        assert np.corrcoef(before, after)[0, 1] > 0.99
        assert after.std() > 0.5 * before.std()


def test_piled_masks_hide_no_more_than_one() -> None:
    image = noise()
    masks = [disc(128, 150, radius) for radius in range(100, 60, -2)]
    drawn = draw_overlay(image, of_masks(masks), ONE)
    inside = disc(128, 150, 50)
    assert drawn[inside].std() > 0.5 * image[inside].std()


def test_of_two_masks_over_each_other_the_smaller_keeps_its_color() -> None:
    image = gray(255)
    large, small = disc(128, 150, 80), disc(128, 150, 30)
    drawn = draw_overlay(image, of_masks([large, small], labels=[1, 2]), FEW)
    assert nearest_color(drawn[150, 128]) == 1
    assert nearest_color(drawn[150, 80]) == 0


@pytest.mark.parametrize("value", [0, 255], ids=["on black", "on white"])
@pytest.mark.parametrize("radius", [4, 40], ids=["small", "large"])
@pytest.mark.parametrize("label", range(1, 8))
def test_the_edge_stands_out_on_any_background(value: int, radius: int, label: int) -> None:
    image = gray(value)
    mask = disc(128, 128, radius)
    drawn = draw_overlay(image, of_masks([mask], [label]), MANY).astype(int)
    ring = mask & ~disc(128, 128, radius * 0.6)
    luminance = drawn[ring] @ np.array([0.2126, 0.7152, 0.0722])
    assert np.abs(luminance - value).max() > 80


def test_nothing_is_painted_outside_the_mask_of_a_single_class() -> None:
    image = noise()
    mask = disc(128, 150, 50)
    many = [disc(16 + 32 * (i % 8), 16 + 32 * (i // 8), 10) for i in range(64)]  # too many for labels
    for masks in ([mask, *many], many):
        drawn = draw_overlay(image, of_masks(masks), ONE)
        assert not (changed(image, drawn) & ~np.any(masks, axis=0)).any()
        assert changed(image, drawn)[np.any(masks, axis=0)].mean() > 0.95


def test_holes_stay_untouched() -> None:
    image = noise()
    hole = disc(128, 150, 20)
    drawn = draw_overlay(image, of_masks([disc(128, 150, 60) & ~hole]), ONE)
    assert not changed(image, drawn)[hole].any()


def test_a_box_lies_around_its_object() -> None:
    image = noise(640, 640)
    drawn = changed(image, draw_overlay(image, found([(200, 200, 400, 500)]), ONE))
    assert not drawn[200:500, 200:400].any()
    assert drawn[198:502, 199].mean() > 0.9
    assert drawn[199, 198:402].mean() > 0.9


def test_a_box_at_the_border_stays_visible() -> None:
    image = noise()
    drawn = changed(image, draw_overlay(image, found([(0, 0, 256, 256)]), FEW))
    assert drawn[:, 0].mean() > 0.9
    assert drawn[-1].mean() > 0.9


def test_with_one_class_boxes_give_way_to_masks() -> None:
    image = noise()
    mask = disc(128, 150, 50)
    boxed = found([(78, 100, 178, 200)])
    assert changed(image, draw_overlay(image, boxed, ONE))[201, 78:178].any()
    assert not changed(image, draw_overlay(image, of_masks([mask]), ONE))[201, 78:178].any()


@pytest.mark.parametrize(
    "mask",
    [pytest.param(np.zeros((256, 256), bool), id="empty"), pytest.param(disc(110.5, 130.5, 0.6), id="one pixel")],
)
def test_a_mask_too_small_to_see_has_its_box_drawn(mask: Bitmap) -> None:
    image = noise()
    drawn = changed(image, draw_overlay(image, found([(100, 120, 130, 150)], masks=[mask]), ONE))
    assert drawn[118:152, 99].all()


def test_a_class_keeps_its_color_whatever_else_is_found() -> None:
    image = gray(255)
    cat, dog, cow = disc(60, 70, 30), disc(190, 70, 30), disc(60, 190, 30)
    alone = draw_overlay(image, of_masks([cat], [1]), FEW)
    together = draw_overlay(image, of_masks([cow, dog, cat], [3, 2, 1]), FEW)
    assert (alone[70, 60] == together[70, 60]).all()
    assert [nearest_color(together[y, x]) for x, y in ((60, 70), (190, 70), (60, 190))] == [0, 1, 2]


def test_objects_of_one_class_differ_from_their_neighbors() -> None:
    image = gray(255)
    centers = [(24 + 34 * (i % 7), 24 + 34 * (i // 7)) for i in range(49)]
    drawn = draw_overlay(image, of_masks([disc(x, y, 18) for x, y in centers]), ONE)
    colors = np.array([nearest_color(drawn[y, x]) for x, y in centers]).reshape(7, 7)
    assert (colors[1:] != colors[:-1]).all()
    assert (colors[:, 1:] != colors[:, :-1]).all()


def test_a_higher_score_threshold_recolors_nothing() -> None:
    image = gray(255)
    centers = [(24 + 34 * (i % 7), 24 + 34 * (i // 7)) for i in range(49)]
    masks = [disc(x, y, 15) for x, y in centers]
    everything = draw_overlay(image, of_masks(masks), ONE)
    surest = draw_overlay(image, of_masks(masks[:30]), ONE)
    for x, y in centers[:30]:
        assert (everything[y, x] == surest[y, x]).all()


@pytest.mark.parametrize("side", [256, 640, 2000, 4000])
def test_lines_and_text_grow_with_the_picture(side: int) -> None:
    image = gray(255, side, side)
    box = (0.3 * side, 0.4 * side, 0.8 * side, 0.8 * side)
    drawn = changed(image, draw_overlay(image, found([box]), ONE))
    column = drawn[: int(0.6 * side), int(0.75 * side)]  # through the upper line, right of the label
    assert max(2, 0.0025 * side) <= column.sum() <= max(4, 0.005 * side)
    label = drawn[:, int(0.35 * side)][: int(0.5 * side)].sum()
    assert max(11, 0.012 * side) <= label <= max(18, 0.035 * side)


def labels_around(box: Box, height: int = 256, width: int = 256) -> tuple[bool, bool, bool]:
    """Whether there is a label above, below, and inside the box."""
    drawn = is_text(draw_overlay(gray(255, height, width), found([box]), FEW))
    x1, y1, x2, y2 = (int(value) for value in box)
    above, below, inside = drawn[: max(y1 - 5, 0)], drawn[y2 + 5 :], drawn[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5]
    return bool(above.any()), bool(below.any()), bool(inside.any())


@pytest.mark.parametrize(
    ("box", "where"),
    [
        pytest.param((80, 100, 180, 200), (True, False, False), id="above"),
        pytest.param((80, 0, 180, 100), (False, True, False), id="no room above: below"),
        pytest.param((0, 0, 256, 256), (False, False, True), id="no room around: inside"),
    ],
)
def test_a_label_goes_where_there_is_room(box: Box, where: tuple[bool, bool, bool]) -> None:
    assert labels_around(box) == where


def test_labels_do_not_cover_each_other() -> None:
    boxes: list[Box] = [(100, 100, 140, 140), (102, 102, 142, 142), (98, 104, 138, 144)]
    image = gray(255, 400, 400)
    areas = [is_text(draw_overlay(image, found([box], [label]), FEW)).sum() for label, box in enumerate(boxes, 1)]
    together = is_text(draw_overlay(image, found(boxes, [1, 2, 3]), FEW))
    assert together.sum() > 0.8 * sum(areas)


def test_text_is_left_out_of_a_crowd_of_one_class() -> None:
    image = gray(255)
    one = of_masks([disc(128, 128, 10)])
    assert is_text(draw_overlay(image, one, ONE))[:115].sum() > 300
    many = [disc(16 + 32 * (i % 8), 16 + 32 * (i // 8), 10) for i in range(64)]
    drawn = draw_overlay(image, of_masks(many), ONE)
    assert not changed(image, drawn)[~np.any(many, axis=0)].any()


def plates(picture: Picture) -> list[int]:
    """The palette entry of each label in a picture with `crowd`, told by its long runs of solid color."""
    entries: list[int] = []
    for entry, color in enumerate(PALETTE):
        solid = (picture == color).all(axis=2)
        wide = np.lib.stride_tricks.sliding_window_view(solid, 30, axis=1).all(axis=2)
        corners: list[tuple[int, int]] = []
        for y, x in np.argwhere(wide).tolist():
            if not any(0 <= x - left < 100 and y - top < 30 for top, left in corners):
                corners.append((y, x))
        entries += [entry] * len(corners)
    return entries


def crowd(labels: Sequence[int]) -> Detections:
    """26 small objects, one more than are all named, with room around."""
    centers = [(100 + 110 * (i % 4), 60 + 80 * (i // 4)) for i in range(26)]
    return found([(x - 4, y - 4, x + 4, y + 4) for x, y in centers], labels)


def test_in_a_crowd_each_class_is_named_once() -> None:
    drawn = draw_overlay(gray(255, 600, 600), crowd([1 + i % 2 for i in range(26)]), FEW)
    assert plates(drawn) == [0, 1]


def test_classes_that_share_a_color_are_all_named() -> None:
    assert len(MANY) > len(PALETTE) + 1
    alike = [1 + len(PALETTE) * (i % 2) for i in range(25)]
    drawn = draw_overlay(gray(255, 600, 600), crowd([*alike, 2]), MANY)
    assert plates(drawn) == [0] * 25 + [1]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("细胞核", id="no glyphs"),
        pytest.param("🙂", id="emoji"),
        pytest.param("", id="empty"),
        pytest.param("two\nlines\tand a tab", id="control characters"),
        pytest.param("\ud800\x00", id="no text at all"),
        pytest.param("\u202ecafé e\u0301", id="accents and direction"),
        pytest.param("word " * 1000, id="long"),
    ],
)
def test_any_class_name_is_drawn(name: str) -> None:
    image = gray(255, 256, 400)
    drawn = draw_overlay(image, found([(100, 100, 200, 200)], [2]), ("other", name))
    assert is_text(drawn)[80:97].sum() > 300


def test_an_annotation_is_labeled_without_a_score() -> None:
    detection, image = found([(60, 90, 150, 200)], labels=[2]), gray(60)
    scored = is_text(draw_overlay(image, detection, FEW)).sum()
    annotated = is_text(draw_overlay(image, replace(detection, scores=np.full(1, np.nan, np.float32)), FEW)).sum()
    assert 0 < annotated < scored


def test_a_label_beyond_the_class_names_is_drawn_by_its_number() -> None:
    drawn = draw_overlay(gray(255), found([(100, 100, 200, 200)], [7]), FEW)
    assert is_text(drawn)[80:97].sum() > 300


def test_keypoints_are_drawn_where_the_heatmap_rises() -> None:
    image = gray(255)
    points = [(60.0, 100.0, 3.0), (128.0, 100.0, -3.0), (60.0, 180.0, 3.0), (np.nan, 10.0, 3.0), (9e9, 10.0, 3.0)]
    person = found([(40, 80, 200, 220)], keypoints=[points])
    plain = draw_overlay(image, person, FEW)
    assert (plain[100, 60] == PALETTE[0]).all()
    rim = plain[100, 60:68].max(axis=1)
    assert rim.min() < 60  # dark around the point
    assert not changed(image, plain)[95:105, 123:133].any()
    assert not changed(image, plain)[130:150, 50:70].any()
    joined = draw_overlay(image, person, FEW, keypoint_edges=[(0, 2), (0, 1), (2, 3), (1, 4)])
    assert changed(image, joined)[104:176, 58:62].any(axis=1).all()
    assert not changed(image, joined)[100:180, 70:190].any()


def test_an_edge_without_its_keypoint_is_refused() -> None:
    person = found([(40, 80, 200, 220)], keypoints=[[(60, 100, 3.0), (60, 180, 3.0)]])
    with pytest.raises(ValueError, match="keypoints 0 to 1"):
        draw_overlay(gray(255), person, ONE, keypoint_edges=[(0, 2)])


@pytest.mark.parametrize("names", [ONE, FEW], ids=["one class", "several"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (7, 5), (40, 3), (33, 64), (3, 2000)], ids=str)
def test_tiny_and_narrow_pictures_are_drawn(shape: tuple[int, int], names: tuple[str, ...]) -> None:
    height, width = shape
    image = gray(100, *shape)
    everywhere: Box = (0, 0, width, height)
    corner = np.zeros(shape, bool)
    corner[-1, -1] = True
    detections = found([everywhere] * 3, masks=[np.ones(shape, bool), corner, ~corner & (height * width < 0)])
    for found_here in (detections, found([everywhere], keypoints=[[(width / 2, height / 2, 1.0)]])):
        drawn = draw_overlay(image, found_here, names)
        assert drawn.shape == image.shape
        assert changed(image, drawn).any()


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((-50, -50, 30, 30), id="partly outside"),
        pytest.param((250, 250, 400, 900), id="over the other border"),
        pytest.param((300, 300, 400, 400), id="outside"),
        pytest.param((100, 100, 100, 100), id="no area"),
        pytest.param((120, 120, 100, 100), id="inside out"),
        pytest.param((0.2, 0.2, 0.3, 0.3), id="less than a pixel"),
        pytest.param((-1e30, -np.inf, np.inf, 1e30), id="infinite"),
        pytest.param((np.nan, np.nan, np.nan, np.nan), id="not a number"),
    ],
)
def test_odd_boxes_are_drawn_inside_the_picture(box: Box) -> None:
    image = noise()
    for names in (ONE, FEW):
        assert changed(image, draw_overlay(image, found([box, (10, 10, 60, 60)]), names)).any()


@pytest.mark.parametrize(
    "detections",
    [
        pytest.param(found([]), id="boxes"),
        pytest.param(found([], masks=[]), id="masks"),
    ],
)
def test_without_detections_the_picture_comes_back(detections: Detections) -> None:
    image = noise()
    for names in (ONE, FEW):
        drawn = draw_overlay(image, detections, names)
        assert (drawn == image).all()
        assert drawn is not image


def test_the_image_is_left_alone_and_the_answer_can_be_written() -> None:
    image = noise()
    before = image.copy()
    image.flags.writeable = False
    drawn = draw_overlay(image, of_masks([disc(128, 150, 50)]), FEW)
    assert (image == before).all()
    drawn[:] = 0
    assert (image == before).all()


def test_masks_equal_pixel_by_pixel_wherever_they_lie() -> None:
    """The cut-out mask is the decoded one: every pixel of random masks changes, and no other."""
    random = np.random.default_rng(1)
    image = gray(255, 50, 60)
    masks = [random.random((50, 60)) < 0.01 for _ in range(30)]
    masks[0][:, 20:23] = True  # a run over several columns
    drawn = draw_overlay(image, found([(0, 0, 60, 50)] * 30, masks=masks), ONE)
    assert (changed(image, drawn) == np.any(masks, axis=0)).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\]", id="gray"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\]", id="four channels"),
        pytest.param(np.zeros((8, 8, 3), np.float32), "float32", id="float"),
        pytest.param(np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]", id="no pixels"),
    ],
)
def test_other_arrays_are_refused(image: Picture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_overlay(image, found([]), ONE)


def test_a_mask_of_another_size_is_refused() -> None:
    detections = found([(0, 0, 4, 4)], masks=[np.ones((8, 4), bool)])
    with pytest.raises(ValueError, match=r"mask 0 is of size \(8, 4\), the image of \(4, 8\)"):
        draw_overlay(gray(0, 4, 8), detections, ONE)


def test_a_malformed_mask_is_refused() -> None:
    detections = Detections(
        np.array([[0, 0, 4, 4]], np.float32), np.ones(1, np.float32), np.ones(1, np.int64), [RLE((8, 8), b"00")]
    )
    with pytest.raises(ValueError, match="RLE counts"):
        draw_overlay(gray(0, 8, 8), detections, ONE)


def test_the_png_holds_the_same_pixels() -> None:
    image = noise(20, 30)
    with Image.open(io.BytesIO(to_png(image))) as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == image).all()


def test_drawing_needs_neither_torch_nor_matplotlib() -> None:
    check = "import sys, model.runtime.overlay; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
