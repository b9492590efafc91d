"""What was found in the last pictures' tiles: by their pixels and their network, no more than there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.runtime.detections import RLE, Detections
from model.runtime.preprocess import Prepared
from service.models.catalog import ServedModel
from service.models.loading import load_first
from service.prediction.remembered import Key, SeenTile, TileMemory
from service.settings.settings import Settings
from tests.service.harness import Server, encode


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[ServedModel]:
    catalog = load_first(Settings(models=repository, engine_threads=1))
    yield catalog.find()
    catalog.close()


def tile(count: int, least: float = 0.1) -> SeenTile:
    scores, labels = np.linspace(0.9, 0.2, count).astype(np.float32), np.ones(count, np.int64)
    masks = [RLE((8, 8), b"1234")] * count
    return SeenTile(least, scores, labels, Detections(np.zeros((count, 4), np.float32), scores, labels, masks))


def key(number: int) -> Key:
    return "probe", 1, "f32", (), bytes([number])


def test_tiles_are_known_by_their_pixels_and_by_the_network(model: ServedModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    prepared = Prepared(pixels, (60, 90), (120, 180))
    name = TileMemory.key_of(model, prepared)
    assert TileMemory.key_of(model, replace(prepared, pixels=np.asfortranarray(pixels))) == name
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    others = {
        name,
        TileMemory.key_of(model, replace(prepared, pixels=changed)),
        TileMemory.key_of(model, replace(prepared, pixels=pixels.reshape(96, 64, 3))),
        TileMemory.key_of(model, replace(prepared, valid=(60, 91))),
        TileMemory.key_of(model, replace(prepared, original=(60, 90))),
        TileMemory.key_of(replace(model, precision="bf16"), prepared),
        TileMemory.key_of(replace(model, fingerprint=(("model.onnx", 1, 2),)), prepared),
    }
    assert len(others) == 7


def test_what_was_found_above_a_score_is_known_above_a_higher_one_only() -> None:
    memory = TileMemory()
    memory.remember({key(1): tile(8, least=0.1)})
    assert memory.recall(key(1), 0.05) is None
    assert memory.recall(key(2), 0.5) is None
    seen = memory.recall(key(1), 0.5)
    assert seen is not None
    scores, labels = seen.above(0.5)
    assert scores.tolist() == [score for score in tile(8).scores.tolist() if score > 0.5]
    assert len(labels) == len(scores)


def test_what_was_asked_for_longest_ago_goes_when_there_is_no_room() -> None:
    size = tile(8).nbytes
    assert tile(9).nbytes > size > SeenTile(0.1, tile(8).scores, tile(8).labels).nbytes
    memory = TileMemory(most_bytes=3 * size)
    memory.remember({key(number): tile(8) for number in range(3)})
    assert memory.recall(key(0), 0.5) is not None
    memory.remember({key(3): tile(8)})
    assert [memory.recall(key(number), 0.5) is not None for number in range(4)] == [True, False, True, True]
    memory.remember({key(3): tile(2)})
    assert memory.nbytes == 2 * size + tile(2).nbytes
    memory.remember({key(4): tile(1000)})
    assert memory.nbytes == 0, "one that is larger than the room takes all of it, and stays no longer"
    assert memory.recall(key(4), 0.5) is None


def test_a_server_looks_once_at_a_picture_that_is_asked_for_in_several_ways(
    repository: Path, start_server: Callable[..., Server]
) -> None:
    image = encode(np.random.default_rng(3).integers(0, 255, (200, 330, 3), np.uint8))
    server = start_server("--models", str(repository))
    query = {"tile": 128, "overlap": 40}
    fresh = server.predict(image, **query).json()
    assert fresh["timing_ms"]["inference"] > 0
    for wish in ({}, {"score_threshold": 0.9}, {"labels": fresh["labels"][0]}, {"max_detections": 1}):
        again = server.predict(image, **query, **wish).json()
        assert again["timing_ms"]["inference"] == 0, wish
        assert again["image"] == fresh["image"]
    same = server.predict(image, **query).json()
    assert {**same, "timing_ms": 0} == {**fresh, "timing_ms": 0}
    file = server.client.post("/predict", files={"file": ("large.png", image)}, params={**query, "format": "imagej"})
    assert file.status_code == 200
    other = server.predict(image, tile=112, overlap=40).json()
    assert other["timing_ms"]["inference"] > 0
