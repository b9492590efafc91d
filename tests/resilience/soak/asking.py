"""What good clients ask in a soak, and what they must be answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import tifffile
from PIL import Image

from tests.resilience.damage import hostile

SAMPLES = Path(__file__).resolve().parents[3] / "model" / "samples" / "nuclei"
BAD, TILED = 20, 1
"""Different damaged files; large pictures."""


@dataclass(frozen=True)
class Case:
    """A request; `kind` is good, tiled or bad."""

    name: str
    kind: str
    data: bytes
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What is the same whenever and by whichever version it is asked: the status, and the body without times."""

    status: int
    content: Any


@dataclass(frozen=True)
class Outcome:
    case: Case
    seconds: float
    answer: Answer
    version: int


def cases() -> list[Case]:
    """Pictures of usual size, one that is seen in tiles, and damaged files, of which some may be pictures still."""
    good = [Case(file.name, "good", file.read_bytes(), {}) for file in sorted(SAMPLES.glob("*.png"))]
    pixels = np.asarray(Image.open(BytesIO(good[0].data)).convert("RGB"))
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    good.append(Case("as JPEG", "good", buffer.getvalue(), {"masks": "polygon"}))
    buffer = BytesIO()
    large = np.tile(pixels, (4, 4, 1))
    tifffile.imwrite(buffer, large, tile=(256, 256), compression="zlib", photometric="rgb")
    tiled = Case(f"tiled, {large.shape[1]}x{large.shape[0]}", "tiled", buffer.getvalue(), {"tile": 512})
    damaged = (hostile(seed) for seed in count())
    bad = [Case(file.story, "bad", file.data, {}) for file in islice((one for one in damaged if one.data), BAD)]
    return [*good, tiled, *bad]


SHARES = {"bad": 0.01, "tiled": 0.01, "good": 0.98}
"""Of all requests, by kind."""


def choose(among: list[Case], draw: Random) -> Case:
    """A case of each kind as often as its share, those of a kind equally often."""
    (kind,) = draw.choices([*SHARES], [*SHARES.values()])
    return draw.choice([case for case in among if case.kind == kind])


async def ask(client: httpx.AsyncClient, case: Case) -> Outcome:
    began = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream"}
    answer = await client.post("/predict", content=case.data, params=case.parameters, headers=headers)
    seconds = time.perf_counter() - began
    content = answer.json()
    version = 0
    if answer.status_code == 200:
        del content["timing_ms"]
        version = content["model"].pop("version")
    content.pop("instance", None)
    return Outcome(case, seconds, Answer(answer.status_code, content), version)
