"""FastAPI and torchvision, as most people begin. Runs in the project's own environment.

As documented: a plain `def` with an UploadFile, which FastAPI runs in its thread pool, several at once. As well as we
can: the raw body, decoded in the pool, one image in the network at a time, and orjson without a model around it.
"""

from __future__ import annotations

import threading

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.network import Answer, Detector, decode, load_detector
from benchmarks.peers.settings import PeerSettings


def create_app(detector: Detector, documented: bool) -> FastAPI:
    """The application with its one endpoint, POST /predict."""
    app = FastAPI()
    one_at_a_time = threading.Lock()

    def answer(data: bytes) -> bytes:
        image = decode(data)
        with one_at_a_time:
            found = detector.predict([image])[0]
        return orjson.dumps(found)

    async def predict(request: Request) -> Response:
        return Response(await run_in_threadpool(answer, await request.body()), media_type="application/json")

    def predict_upload(file: UploadFile) -> Answer:
        return detector.predict([decode(file.file.read())])[0]

    if documented:
        app.post("/predict")(predict_upload)
    else:
        app.post("/predict")(predict)
    return app


if __name__ == "__main__":
    settings = PeerSettings.from_environment()
    app = create_app(load_detector(settings), settings.documented)
    uvicorn.run(app, host="127.0.0.1", port=settings.port, access_log=settings.documented)
