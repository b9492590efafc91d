"""Offline prediction equals image-by-image prediction, whatever is batched with what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from model.architecture import Task
from model.runtime.bundles.bundle import Bundle
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import Engine
from model.runtime.engines.loading import load_engine
from model.runtime.kernels.masks import decode
from model.runtime.predict import Predictor, warm_up
from model.runtime.preprocess import Preprocessing

Publish = Callable[[Task], Bundle]


class Recorder:
    """An engine that notes the shapes it was given."""

    name, device = "recorder", "cpu"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: list[tuple[int, ...]] = []

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        self.shapes.append(images.shape)
        return self.engine.run(images, sizes, score_threshold)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def recorder(publish: Publish) -> Recorder:
    return Recorder(load_engine(publish("masks"), device="cpu", threads=1))


PREPROCESSING = Preprocessing(min_size=64, max_size=128)


def gray(value: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def test_answers_stand_in_the_images_order(recorder: Recorder) -> None:
    images = [gray(255, 64, 64), gray(204, 64, 96), gray(0, 64, 64), gray(102, 32, 48), gray(153, 640, 640)]
    found = Predictor(recorder, PREPROCESSING, batch_size=2).predict(images, score_threshold=0.3)
    assert [round(float(one.scores[0]), 4) if len(one) else None for one in found] == [1.0, 0.8, None, 0.4, 0.6]
    assert [one.boxes.tolist() for one in found if len(one)] == [
        [[0, 0, 32, 64]],
        [[0, 0, 48, 64]],
        [[0, 0, 24, 32]],
        [[0, 0, 320, 640]],
    ]
    # Two square images, the third; two oblong ones: one bucket in a batch, and never more than two images.
    assert recorder.shapes == [(2, 64, 64, 3), (1, 64, 64, 3), (2, 64, 96, 3)]
    assert found[4].masks is not None
    assert decode(found[4].masks[0]).shape == (640, 640)


def test_options_reach_the_answer(recorder: Recorder) -> None:
    predictor = Predictor(recorder, PREPROCESSING)
    image = gray(255, 64, 64)
    assert len(predictor.predict([image], 0.5)[0]) == 1
    assert len(predictor.predict([image], 0.5, 0)[0]) == 0
    assert len(predictor.predict([image], 0.5, labels=[2])[0]) == 0
    assert predictor.predict([image], 0.5, want_masks=False)[0].masks is None
    assert len(predictor.predict([image], 1.0)[0]) == 0
    assert predictor.predict([], 0.5) == []


def test_batch_size_changes_nothing(recorder: Recorder) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (height, 80, 3), np.uint8) for height in (60, 64, 70, 64, 60)]
    one_by_one = Predictor(recorder, PREPROCESSING, 1).predict(images, 0.1)
    for size in (2, 8):
        for one, other in zip(one_by_one, Predictor(recorder, PREPROCESSING, size).predict(images, 0.1), strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)
            np.testing.assert_array_equal(one.boxes, other.boxes)
            assert one.masks == other.masks


def test_empty_batches_are_refused(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(recorder, PREPROCESSING, 0)


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_of_bundle(task: Task, publish: Publish) -> None:
    bundle = publish(task)
    predictor = Predictor.of_bundle(bundle, device="cpu", threads=1, batch_size=4)
    assert predictor.preprocessing == bundle.manifest.preprocessing
    (found,) = predictor.predict([gray(255, 64, 128)], 0.5)
    assert (found.masks is not None) == (task == "masks")
    assert (found.keypoints is not None) == (task == "keypoints")
    if found.keypoints is not None:
        assert found.keypoints.shape == (1, 2, 3)
        assert (found.keypoints[..., :2] <= [64, 64]).all()
    predictor.close()


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_warm_up(task: Task, publish: Publish) -> None:
    recorder = Recorder(load_engine(publish(task), device="cpu", threads=1))
    warm_up(recorder, Preprocessing(min_size=64, max_size=128, bucket_step=64))
    assert recorder.shapes == [(1, 64, 64, 3)]


def test_warm_up_of_every_bucket(publish: Publish) -> None:
    preprocessing = Preprocessing(min_size=64, max_size=96)
    recorder = Recorder(load_engine(publish("masks"), device="cpu", threads=1))
    warm_up(recorder, preprocessing, "every-bucket")
    assert recorder.shapes == [(1, *bucket, 3) for bucket in preprocessing.buckets()]
    assert len(recorder.shapes) == 5


@pytest.mark.parametrize(("largest", "shapes"), [(96, [(1, 96, 32, 3), (1, 32, 32, 3)]), (32, [(1, 32, 32, 3)])])
def test_warm_up_of_the_largest(publish: Publish, largest: int, shapes: list[tuple[int, ...]]) -> None:
    recorder = Recorder(load_engine(publish("masks"), device="cpu", threads=1))
    warm_up(recorder, Preprocessing(min_size=32, max_size=largest), "largest")
    assert recorder.shapes == shapes


def test_the_runtime_needs_no_torch(publish: Publish) -> None:
    """Predicts in a process where importing torch, or anything of the other packages, fails."""
    program = """
import sys
for name in ("torch", "torchvision", "onnx", "model.network", "training", "service"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
import model.runtime.images.decode, model.runtime.bundles.repository, model.runtime.engines.onnx
from model.runtime.bundles.bundle import open_bundle
from model.runtime.predict import Predictor, warm_up
predictor = Predictor.of_bundle(open_bundle(Path(sys.argv[1])), device="cpu", threads=1)
warm_up(predictor.engine, predictor.preprocessing)
print(len(predictor.predict([np.full((64, 64, 3), 255, np.uint8)], 0.5)[0]))
print([name for name in sys.modules if name.startswith(("torch.", "PIL.Mpo"))])
"""
    done = subprocess.run([sys.executable, "-c", program, publish("masks").path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n[]\n", "")
