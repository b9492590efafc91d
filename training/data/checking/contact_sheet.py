"""A sheet of small pictures of a dataset with everything that is annotated on them; broken ones say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.runtime.detections import RLE, Detections
from model.runtime.images.decode import load_image
from model.runtime.images.errors import ImageError
from model.runtime.kernels.rle import encode_bitmap
from model.runtime.overlay import draw_overlay
from training.data.annotations.dataset import Dataset, Problem
from training.data.annotations.records import LIMITS, Annotations, ImageRecord

CELL = 360
"""Pixels of a picture's longer side on the sheet: large enough for the labels of `draw_overlay`."""
COLUMNS = 4
GAP, CAPTION, TITLE = 12, 38, 44
_PAPER, _INK, _SOFT, _CARD, _ALARM = (250, 250, 250), (25, 25, 25), (95, 95, 95), (228, 228, 228), (176, 42, 32)

Pixels = NDArray[np.uint8]


def draw_sheet(
    splits: Mapping[str, Dataset], problems: Mapping[str, Sequence[Problem]], count: int, *, with_masks: bool
) -> Pixels:
    """uint8 [H, W, 3] RGB: `count` images of each split, drawn with masks, boxes, keypoints and labels.

    splits: as loaded, broken records and all; problems: those of each split, of masks too if they are drawn. Half of a
    split's places are for images with broken records, as far as there are any; the others are spread evenly over it.
    """
    rows: list[Image.Image] = []
    for name, data in splits.items():
        rows.append(_title(name, data, problems[name]))
        chosen = _choose(data, problems[name], count)
        cells = [_cell(data, position, problems[name], with_masks) for position in chosen]
        rows += [_row(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    sheet = Image.new("RGB", (_width(), sum(row.height for row in rows) + GAP), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return np.array(sheet)


def as_detections(record: ImageRecord, objects: Annotations, size: tuple[int, int], *, with_masks: bool) -> Detections:
    """Annotations of an image as detections without a score on a picture of it, resized to (width, height) pixels.

    Masks (resized one by one) are there where all objects have one, and keypoints where they are labeled.
    Raises ValueError where a mask does not decode.
    """
    factor = np.array(size) / (record.width, record.height)
    masks: list[RLE] | None = None
    if with_masks and all(segmentation is not None for segmentation in objects.segmentations):
        if size == (record.width, record.height):
            masks = objects.rles(record.height, record.width)
        else:
            masks = [_resized_mask(record, objects.select([row]), size) for row in range(len(objects))]
    keypoints = None
    if objects.keypoints is not None:
        keypoints = objects.keypoints.copy()
        keypoints[:, :, :2] *= factor
        keypoints[:, :, 2] = np.where(keypoints[:, :, 2] > 0, 1, -1)  # visibility as a logit: the positive are drawn
    boxes = (objects.boxes * np.tile(factor, 2)).astype(np.float32)
    return Detections(boxes, np.full(len(objects), np.nan, np.float32), objects.labels.copy(), masks, keypoints)


def _resized_mask(record: ImageRecord, objects: Annotations, size: tuple[int, int]) -> RLE:
    return encode_bitmap(objects.masks(record.height, record.width, size=size[::-1])[0] > 0)


def _choose(data: Dataset, problems: Sequence[Problem], count: int) -> list[int]:
    """Positions of the images to draw, rising."""
    broken_ids = {problem.image_id for problem in problems}
    broken = [position for position, record in enumerate(data.images) if record.id in broken_ids]
    chosen = broken[: max(count // 2, 1)]
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    places = min(count - len(chosen), len(rest))
    return sorted([*chosen, *rest[np.linspace(0, len(rest) - 1, places).round().astype(int)].tolist()])


def _cell(data: Dataset, position: int, problems: Sequence[Problem], with_masks: bool) -> Image.Image:
    """One image with its caption, CELL pixels wide and as high as it has to be."""
    record, objects = data.images[position], data.annotations[position]
    own = [problem for problem in problems if problem.image_id == record.id]
    broken = [problem for problem in own if problem.annotation_id is None]
    bad_rows = np.isin(objects.ids, [p.annotation_id for p in own if p.annotation_id is not None])
    if broken:
        picture = _placeholder(f"{broken[0].kind}", broken[0].message)
    else:
        picture = _drawn(data, record, objects.select(~bad_rows), with_masks)
    crowds = int(objects.crowd.sum())
    line = f"{record.width}x{record.height}, {_counted(len(objects) - crowds, 'object')}"
    line += f", {crowds} crowd" if crowds else ""
    cell = Image.new("RGB", (CELL, picture.height + CAPTION), _PAPER)
    draw = ImageDraw.Draw(cell)
    draw.rectangle((0, 0, CELL - 1, picture.height - 1), _CARD)
    cell.paste(picture, ((CELL - picture.width) // 2, 0))
    draw.text((2, picture.height + 3), _fitting(record.file, 13), _INK, _font(13))
    if own:
        line = f"{', '.join(dict.fromkeys(problem.kind for problem in own))} ({len(own)})"
    draw.text((2, picture.height + 19), _fitting(line, 12), _ALARM if own else _SOFT, _font(12))
    return cell


def _drawn(data: Dataset, record: ImageRecord, objects: Annotations, with_masks: bool) -> Image.Image:
    try:
        image = load_image(record.path, LIMITS, upright=False)
    except (OSError, ImageError) as error:
        return _placeholder("unreadable image", str(error))
    scale = CELL / max(record.width, record.height)
    size = max(1, round(record.width * scale)), max(1, round(record.height * scale))
    names = list(data.class_names)
    try:
        detections = as_detections(record, objects, size, with_masks=with_masks)
    except ValueError as error:
        return _placeholder("bad mask", str(error))
    if objects.crowd.any():
        detections.labels[objects.crowd] += len(names)
        names += [f"{name} crowd" for name in names]
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return Image.fromarray(draw_overlay(np.array(small), detections, names))


def _placeholder(title: str, message: str) -> Image.Image:
    """A card in the place of an image that cannot be shown."""
    height = CELL * 3 // 4
    card = Image.new("RGB", (CELL, height), _CARD)
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, CELL - 1, height - 1), None, _ALARM, 3)
    x, y = CELL // 2, height // 4
    draw.line((x - 22, y - 22, x + 22, y + 22), _ALARM, 7)
    draw.line((x - 22, y + 22, x + 22, y - 22), _ALARM, 7)
    draw.text((x, y + 52), title, _ALARM, _font(20), anchor="mm")
    for number, line in enumerate(_wrapped(message, 13, CELL - 40)[:6]):
        draw.text((x, y + 80 + 18 * number), line, _INK, _font(13), anchor="mm")
    return card


def _title(name: str, data: Dataset, problems: Sequence[Problem]) -> Image.Image:
    crowds = sum(int(objects.crowd.sum()) for objects in data.annotations)
    objects = sum(len(some) for some in data.annotations) - crowds
    row = Image.new("RGB", (_width(), TITLE), _PAPER)
    draw = ImageDraw.Draw(row)
    draw.text((GAP, 14), name, _INK, _font(22))
    left = GAP + _font(22).getlength(name) + 14
    text = f"{_counted(len(data), 'image')}, {_counted(objects, 'object')}"
    draw.text((left, 20), text, _SOFT, _font(15))
    if problems:
        left += _font(15).getlength(text) + 14
        draw.text((left, 20), _counted(len(problems), "broken record"), _ALARM, _font(15))
    return row


def _row(cells: Sequence[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (_width(), max(cell.height for cell in cells) + GAP), _PAPER)
    for column, cell in enumerate(cells):
        row.paste(cell, (GAP + column * (CELL + GAP), GAP))
    return row


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _width() -> int:
    return GAP + COLUMNS * (CELL + GAP)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # always, when a size is given
    return font


def _fitting(text: str, size: int) -> str:
    """`text`, without its middle if it is wider than a cell: the end of a file name tells it from others."""
    plain = text.encode("ascii", "replace").decode()  # Pillow's own font has little else
    if _font(size).getlength(plain) <= CELL - 4:
        return plain
    kept = len(plain)
    while _font(size).getlength(f"{plain[: kept // 3]}...{plain[-(kept - kept // 3) :]}") > CELL - 4:
        kept -= 1
    return f"{plain[: kept // 3]}...{plain[-(kept - kept // 3) :]}"


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken anywhere in a word that is longer by itself."""
    lines = [""]
    for word in text.encode("ascii", "replace").decode().split():
        trial = f"{lines[-1]} {word}".strip()
        if _font(size).getlength(trial) <= width:
            lines[-1] = trial
            continue
        lines.append("")
        for character in word:
            if _font(size).getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line]
