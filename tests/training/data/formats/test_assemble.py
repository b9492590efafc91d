"""What the readers of all formats share: an image's size is told for every file that training can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from training.data.annotations.fields import BrokenRecord
from training.data.annotations.records import ImageRecord
from training.data.formats.assemble import Header, read_header
from training.data.loading.samples import load_stored


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        pytest.param(np.float64, {}, id="floats of 64 bits, which Pillow does not open"),
        pytest.param(np.uint16, {"planarconfig": "separate", "photometric": "rgb"}, id="planes of 16 bits"),
        pytest.param(np.uint16, {"bigtiff": True}, id="BigTIFF"),
    ],
)
def test_a_tiff_of_any_kind_has_the_size_that_training_reads(
    tmp_path: Path, dtype: type, options: dict[str, object]
) -> None:
    path = tmp_path / "deep.tif"
    shape = (3, 20, 31) if "photometric" in options else (20, 31)
    tifffile.imwrite(path, np.ones(shape, dtype), **options)
    assert read_header(path) == Header(31, 20, 1)
    assert load_stored(ImageRecord(1, path, 31, 20, path.name)).shape == (20, 31, 3)


def test_a_tiff_that_is_cut_short_in_its_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, np.ones((20, 31), np.uint16))
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(BrokenRecord, match=r"cut\.tif cannot be opened"):
        read_header(path)
