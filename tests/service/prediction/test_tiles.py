"""Pictures in tiles at a real server: the offline answer, limits that are told, and clients that leave."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.architecture import ArchitectureConfig
from model.runtime.bundles.repository import Repository
from model.runtime.merging import merge_tiles
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from model.runtime.sightings import TileAnswer
from model.runtime.tiling import LEAST_OVERLAP, plan_tiles
from service.http.problems import Problem
from service.prediction.parameters import Tiling
from tests.service.harness import Server, encode, picture


def test_a_picture_in_tiles_is_answered_as_its_tiles_are_merged_offline(
    tiny_repository: Path, start_server: Callable[..., Server]
) -> None:
    image = np.random.default_rng(3).integers(0, 255, (200, 330, 3), np.uint8)
    predictor = Predictor.of_bundle(Repository(tiny_repository).latest("tiny"), device="cpu", threads=1)
    tiles = plan_tiles((200, 330), 128, 40)
    answers = [TileAnswer(tile, predictor.predict([tile.of(image)], 0.0)[0], np.inf) for tile in tiles]
    predictor.close()
    expected = merge_tiles((200, 330), answers)
    assert 0 < len(expected) <= sum(len(answer.detections) for answer in answers)
    assert expected.masks is not None
    server = start_server("--models", str(tiny_repository))
    found = server.predict(encode(image), tile=128, overlap=40).json()
    assert found["image"] == {"width": 330, "height": 200, "tiles": len(tiles)}
    assert np.allclose(found["scores"], expected.scores, rtol=0, atol=1e-5)
    assert np.allclose(found["boxes"], expected.boxes, rtol=0, atol=1e-2)
    assert [mask["counts"].encode() for mask in found["masks"]] == [mask.counts for mask in expected.masks]
    best = server.predict(encode(image), tile=128, overlap=40, max_detections=1).json()
    assert (best["scores"], best["truncated"]) == (found["scores"][:1], True)


def test_what_a_limit_cuts_off_is_told(server: Server) -> None:
    image = encode(picture(size=(70, 100)))
    whole = server.predict(image).json()
    count = len(whole["scores"])
    assert whole["truncated"] is False
    assert server.predict(image, max_detections=count).json()["truncated"] is False
    cut = server.predict(image, max_detections=count - 1).json()
    assert cut["truncated"] is True
    assert cut["scores"] == whole["scores"][:-1]
    alone = server.predict(image, max_detections=1, labels=whole["labels"][0]).json()
    assert alone["truncated"] is (whole["labels"].count(whole["labels"][0]) > 1)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tile": "big"}, "tile"),
        ({"tile": 64}, "tile"),
        ({"tile": "0128"}, "tile"),
        ({"overlap": -1}, "overlap"),
    ],
)
def test_tiles_that_make_no_sense_are_refused(server: Server, query: dict[str, object], message: str) -> None:
    refused = server.predict(encode(picture()), **query)
    assert refused.status_code == 422
    assert message in refused.json()["detail"]


def test_too_many_tiles_are_a_parameter_that_is_wrong() -> None:
    architecture = ArchitectureConfig()
    preprocessing = Preprocessing.from_architecture(architecture)
    with pytest.raises(Problem, match=r"tile: that would be 386884 tiles.*; ask for larger ones, or for less overlap"):
        Tiling(100, 50).plan(architecture, preprocessing, (20_000, 20_000))


def test_the_server_gives_a_picture_in_tiles_more_time(start_server: Callable[..., Server]) -> None:
    """Unless the request has a deadline of its own."""
    server = start_server("--timeout-ms", "300")
    slow = np.zeros((128, 960, 3), np.uint8)
    slow[0, ::96, 0] = 255
    assert server.predict(encode(slow), tile=128, overlap=32, timeout_ms=300).status_code == 504
    patient = server.predict(encode(slow), tile=128, overlap=32)
    assert patient.status_code == 200
    assert patient.json()["image"]["tiles"] == 10


@pytest.mark.parametrize("tile", [100, 128, 512, 700])
@pytest.mark.parametrize("overlap", [0, 1, 15, 16])
def test_tiles_overlap_enough_to_join_what_they_cut(tile: int, overlap: int) -> None:
    architecture = ArchitectureConfig()
    preprocessing = Preprocessing.from_architecture(architecture)
    tiles = Tiling(tile, overlap).plan(architecture, preprocessing, (tile, 5 * tile))
    for one, following in pairwise(sorted(tiles, key=lambda one: one.left)):
        assert one.left + one.width - following.left >= LEAST_OVERLAP
    assert tiles == Tiling(tile, LEAST_OVERLAP).plan(architecture, preprocessing, (tile, 5 * tile))


def test_a_picture_in_tiles_ends_when_its_time_is_over(server: Server) -> None:
    slow = np.zeros((128, 4000, 3), np.uint8)  # more tiles than may wait at once
    slow[0, 0, 0] = 80
    late = server.predict(encode(slow), tile=128, overlap=32, timeout_ms=30)
    assert late.status_code == 504
    assert server.predict(encode(picture())).status_code == 200
