"""A handler for TorchServe 0.12.0, of the kind that its documentation calls custom: `initialize` and `handle`.

Batches are made by TorchServe: `handle` gets up to as many requests as the model's `batchSize`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.network import Answer, decode, load_detector
from benchmarks.peers.settings import PeerSettings


class Handler:
    """POST /predictions/detector with the image file as the body."""

    def initialize(self, context: Any) -> None:
        settings = PeerSettings.from_environment()
        if settings.model is not None:  # the archive holds it
            settings = replace(settings, model=Path(os.fspath(context.system_properties["model_dir"])))
        self.detector = load_detector(settings)

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[Answer]:
        return self.detector.predict([decode(bytes(row.get("data") or row["body"])) for row in data])
