"""Triton through nvidia-pytriton 0.7.0: batches are Triton's, the network runs in this process.

As documented: the defaults of `ModelConfig`, batches of up to 4 without a delay. As well as we can: the delay that the
others get.
"""
# mypy: disable-error-code=import-not-found
# mypy: allow-untyped-decorators

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.network import decode, load_detector
from benchmarks.peers.settings import BATCH, DELAY_SECONDS, PeerSettings


def main() -> None:
    """Serves until it is told to stop. Ports for gRPC and metrics, which nobody asks, are the arguments."""
    settings = PeerSettings.from_environment()
    detector = load_detector(settings)

    @batch
    def infer(image: NDArray[np.bytes_]) -> dict[str, NDArray[Any]]:
        answers = detector.predict([decode(bytes(row[0])) for row in image])
        return {"answer": np.array([[json.dumps(answer).encode()] for answer in answers], dtype=np.object_)}

    batcher = DynamicBatcher(max_queue_delay_microseconds=round(DELAY_SECONDS * 1e6))
    model_config = ModelConfig() if settings.documented else ModelConfig(max_batch_size=BATCH, batcher=batcher)
    grpc_port, metrics_port = map(int, sys.argv[1:])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=settings.port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="detector",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=model_config,
        )
        triton.serve()


if __name__ == "__main__":
    main()
