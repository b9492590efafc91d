"""BentoML 1.4.40. As documented: an endpoint for one image. As well as we can: adaptive batching, for which BentoML
wants an endpoint of a list (clients send lists of one) and learns the delay by itself.
"""
# mypy: disable-error-code=import-not-found
# mypy: allow-untyped-decorators

from __future__ import annotations

import typing

import bentoml
from PIL import Image

from benchmarks.peers.network import load_detector
from benchmarks.peers.settings import BATCH, PeerSettings

SETTINGS = PeerSettings.from_environment()
# BentoML does not start with settings that are there but empty.
SERVICE: typing.Any = bentoml.service if SETTINGS.documented else bentoml.service(traffic={"timeout": 300})


# BentoML reads the types of the endpoints when it starts.
@SERVICE
class Detector:
    """POST /predict with a multipart part `image`, or /predict_batch with parts `images`."""

    def __init__(self) -> None:
        self.detector = load_detector(SETTINGS)

    @bentoml.api
    def predict(self, image: Image.Image) -> dict[str, typing.Any]:
        return self.detector.predict([image.convert("RGB")])[0]

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def predict_batch(self, images: list[Image.Image]) -> list[dict[str, typing.Any]]:
        return self.detector.predict([image.convert("RGB") for image in images])
