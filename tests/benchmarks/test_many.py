"""The bare engine and predict-many are given the same: else the share of the one in the other's rate says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import many
from model.runtime.detections import RawDetections
from model.runtime.engines.onnx import OnnxEngine
from tests.service.harness import LABELS, encode, picture, publish_probe

Fed = tuple[float, tuple[int, ...], int]


def test_both_compute_the_same_images_at_the_same_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose labels have thresholds of their own, and a picture that would be cut into tiles."""
    publish_probe(tmp_path / "staging", tmp_path / "models", score_thresholds=dict.fromkeys(LABELS, 0.8))
    (tmp_path / "data").mkdir()
    for number, size in enumerate([(64, 80), (64, 80), (64, 200)]):
        (tmp_path / "data" / f"{number}.png").write_bytes(encode(picture(number, size)))
    fed: list[Fed] = []
    run = OnnxEngine.run

    def recorded(
        self: OnnxEngine, images: NDArray[np.uint8], sizes: NDArray[np.int64], threshold: NDArray[np.float32]
    ) -> RawDetections:
        fed.append((float(threshold[0]), images.shape, int(images.sum())))
        return run(self, images, sizes, threshold)

    monkeypatch.setattr(OnnxEngine, "run", recorded)
    words = ["--models", tmp_path / "models", "--data", tmp_path / "data", "--images", 3, "--rounds", 1]
    assert many.main([*map(str, words), f"--json={tmp_path / 'many.json'}"]) == 0
    turns = fed[1:]  # behind the model's own warm-up
    assert len(turns) == 4 * 3, "one round that is not timed, one that is"
    for first in range(0, len(turns), 6):
        assert sorted(turns[first : first + 3]) == sorted(turns[first + 3 : first + 6])
    assert {threshold for threshold, _, _ in turns} == {np.float32(0.8)}
    (written,) = json.loads((tmp_path / "many.json").read_text())["comparisons"]
    assert written["details"] == {"images": 3, "model": "probe/1"}
