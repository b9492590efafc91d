"""Sample pictures: one for each image, whatever the images are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.runtime.detections import Detections
from tests.training.data.formats.samples import HEIGHT, WIDTH, write_json
from training.data.formats.coco.reader import load_coco
from training.loop.pictures import draw_samples


@pytest.mark.parametrize("files", [("a.png", "a.bmp"), ("x/a.png", "y/a.png"), ("a.png", "A.png")])
def test_images_of_one_name_have_a_picture_each(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / file)
    images = [
        {"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT} for number, file in enumerate(files, 1)
    ]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    write_json(tmp_path / "a.json", document)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])
    data = load_coco(tmp_path / "a.json", tmp_path)
    for _ in range(2):  # the second validation draws over the pictures of the first
        draw_samples(data, [nothing, nothing], 2, tmp_path / "samples")
        assert len(list((tmp_path / "samples").iterdir())) == 2
