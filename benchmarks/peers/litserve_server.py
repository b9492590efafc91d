"""LitServe 0.2.19. As documented: no batching, its own queue. As well as we can: batches, and ZeroMQ where its
documentation advises it (over 100 requests a second: the null model).
"""
# mypy: disable-error-code=import-not-found
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import litserve
from PIL import Image

from benchmarks.peers.network import Answer, decode, load_detector
from benchmarks.peers.settings import BATCH, DELAY_SECONDS, PeerSettings

TIMEOUT_SECONDS = 300.0


class DetectorAPI(litserve.LitAPI):
    """POST /predict with a multipart part `file`."""

    def setup(self, device: str) -> None:
        self.detector = load_detector(PeerSettings.from_environment())

    def decode_request(self, request: Any) -> Image.Image:
        return decode(request["file"].file.read())

    def predict(self, images: Any) -> Any:
        if self.max_batch_size == 1:
            return self.detector.predict([images])[0]
        return self.detector.predict(images)

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    settings = PeerSettings.from_environment()
    if settings.documented:
        server = litserve.LitServer(DetectorAPI())
    else:
        api = DetectorAPI(max_batch_size=BATCH, batch_timeout=DELAY_SECONDS)
        server = litserve.LitServer(api, accelerator="cpu", timeout=TIMEOUT_SECONDS, fast_queue=settings.model is None)
    server.run(host="127.0.0.1", port=settings.port, generate_client_file=False)
