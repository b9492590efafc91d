"""What is wanted of the engine and the service on an H100 or H200, for R50-FPN at 800x1333."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENGINE: Final = "engine, images/s"
OVER_EAGER: Final = "engine over torchvision eager fp32"
OVER_ONNX: Final = "engine over ONNX Runtime CUDA"
SHARE: Final = "service over engine"

WANTED: Final = {ENGINE: 300.0, OVER_EAGER: 5.0, OVER_ONNX: 2.0, SHARE: 0.8}
"""The engine is the fastest contender whose answers are right."""
LEAST_RATE: Final = 150.0
"""Images a second that it should have in any case."""


def lines_of(found: Mapping[str, float]) -> list[str]:
    """What was found, by the names above, beside what is wanted."""
    least = {ENGINE: f" ({LEAST_RATE:g} at least)"}
    return [
        f"  {name:36} {value:9.2f}   wanted on an H200: {WANTED[name]:g} or more{least.get(name, '')}"
        for name, value in found.items()
    ]
