"""LitServe 0.2.19. As documented: no batching, its own queue. As well as we can: batches, answers written by orjson in
the worker, and ZeroMQ where its documentation advises it (over 100 requests a second: the null model).
"""
# mypy: disable-error-code=import-not-found
# mypy: allow-subclassing-any

# Not `from __future__ import annotations`: LitServe compares the annotation of `request` with the class itself.
from typing import Any

import litserve
import orjson
from fastapi import Request, Response
from PIL import Image

from benchmarks.peers.network import Answer, decode, load_detector
from benchmarks.peers.settings import BATCH, DELAY_SECONDS, PeerSettings

TIMEOUT_SECONDS = 300.0


class DetectorAPI(litserve.LitAPI):
    """POST /predict with a multipart part `file`."""

    def setup(self, device: str) -> None:
        settings = PeerSettings.from_environment()
        self.detector = load_detector(settings)
        self.documented = settings.documented

    def decode_request(self, request: Request) -> Image.Image:
        form: Any = request  # what comes is the form
        return decode(form["file"].file.read())

    def predict(self, images: Any) -> Any:
        if self.max_batch_size == 1:
            return self.detector.predict([images])[0]
        return self.detector.predict(images)

    def encode_response(self, output: Answer) -> Any:
        return output if self.documented else Response(orjson.dumps(output), media_type="application/json")


if __name__ == "__main__":
    settings = PeerSettings.from_environment()
    if settings.documented:
        server = litserve.LitServer(DetectorAPI())
    else:
        api = DetectorAPI(max_batch_size=BATCH, batch_timeout=DELAY_SECONDS)
        server = litserve.LitServer(api, accelerator="cpu", timeout=TIMEOUT_SECONDS, fast_queue=settings.model is None)
    server.run(host="127.0.0.1", port=settings.port, generate_client_file=False)
