"""Label images, read back by tifffile and Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.analysis import label_image
from model.runtime.analysis.files import file_of
from model.runtime.analysis.findings import Findings, NeedsMasks
from model.runtime.detections import Detections
from tests.model.runtime.analysis.found import SIZE, found, shapes, without_masks

SHAPES = shapes()


def labels(findings: Findings) -> NDArray[np.uint32]:
    data = b"".join(file_of("labels", findings))
    image: NDArray[np.uint32] = tifffile.imread(BytesIO(data))
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(data))), image)
    return image


@pytest.mark.parametrize("band", [label_image.BAND, 7], ids=["one band", "several"])
def test_pixels_hold_the_number_of_the_best_object_over_them(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    monkeypatch.setattr(label_image, "BAND", band)
    masks = [mask for name, mask in SHAPES.items() if name != "all"]
    expected = np.zeros(SIZE, int)
    for number, mask in reversed(list(enumerate(masks, 1))):  # the best is painted last
        expected[mask] = number
    found_labels = labels(found(*masks))
    assert found_labels.dtype == np.uint16
    np.testing.assert_array_equal(found_labels, expected)
    assert (SHAPES["disc"] & SHAPES["ring"]).any(), "nothing overlaps here"


def test_the_best_object_hides_all_others() -> None:
    assert (labels(found(SHAPES["all"], SHAPES["disc"])) == 1).all()


def test_more_objects_than_16_bits_count() -> None:
    one = found(SHAPES["disc"], SHAPES["ring"]).detections
    assert one.masks is not None
    for count, dtype in ((65_535, np.uint16), (65_536, np.uint32)):
        rows = np.append(np.zeros(count - 1, int), 1)
        detections = Detections(one.boxes[rows], one.scores[rows], one.labels[rows], [one.masks[row] for row in rows])
        image = labels(Findings(detections, ("cell", "ring"), SIZE))
        assert image.dtype == dtype
        assert image.max() == count


def test_nothing_found_is_all_background() -> None:
    empty = np.zeros(SIZE, np.bool_)
    for findings in (found(), found(empty)):
        image = labels(findings)
        assert image.shape == SIZE
        assert not image.any()


def test_without_masks_there_is_no_label_image() -> None:
    with pytest.raises(NeedsMasks, match="made of masks"):
        file_of("labels", without_masks(found(SHAPES["disc"])))
