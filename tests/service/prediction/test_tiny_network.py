"""The whole line once: a real Mask R-CNN, exported, served, asked alone and in batches."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from tests.service.harness import Server, encode


# pycocotools on a newer numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_served_network_answers_as_offline_whatever_shares_its_batch(
    tiny_repository: Path, start_server: Callable[..., Server]
) -> None:
    generator = np.random.default_rng(0)
    sizes = [(64, 64), (64, 64), (90, 64), (64, 64), (150, 400)] * 2
    images = [generator.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    uploads = [encode(image) for image in images]
    predictor = Predictor.of_bundle(Repository(tiny_repository).latest("tiny"), device="cpu", threads=1)
    expected = [predictor.predict([image], 0.0)[0] for image in images]
    predictor.close()
    server = start_server("--models", str(tiny_repository), "--max-batch-size", "4", "--max-queue-delay-ms", "50")

    def ask(upload: bytes) -> dict[str, Any]:
        response = server.predict(upload)
        assert response.status_code == 200, response.text
        value: dict[str, Any] = response.json()
        return value

    with ThreadPoolExecutor(len(uploads)) as pool:
        answers = list(pool.map(ask, uploads))
    assert server.metrics()["maskserve_batch_size_count"] < len(uploads), "no batch was shared"
    for size, answer, offline in zip(sizes, answers, expected, strict=True):
        assert len(offline) > 0
        assert offline.masks is not None
        assert answer["label_ids"] == offline.labels.tolist()
        assert np.allclose(answer["scores"], offline.scores, rtol=0, atol=1e-5)
        assert np.allclose(answer["boxes"], offline.boxes, rtol=0, atol=1e-2)
        for mask, rle in zip(answer["masks"], offline.masks, strict=True):
            served = coco.decode(mask).astype(bool)
            alone = coco.decode({"size": rle.size, "counts": rle.counts}).astype(bool)
            assert served.shape == size
            assert (served ^ alone).sum() <= 0.01 * alone.sum() + 2
