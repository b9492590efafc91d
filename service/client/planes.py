"""What becomes of each plane of a file whose planes were all asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from service.client.errors import ServerProblem
from service.client.prediction import Prediction


@dataclass(frozen=True, slots=True)
class PlaneAnswer:
    """One plane's prediction, or the problem that it has; the other is None.

    plane: which one it is, from 0, by the axis page, z, t or channel; empty of a file that has only one.
    json: the server's answer.
    """

    plane: Mapping[str, int]
    prediction: Prediction | None
    problem: ServerProblem | None
    json: dict[str, Any]

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Self:
        """From an entry of `answers` in the JSON of `POST /predict?planes=all`."""
        plane = {axis: which["index"] for axis, which in item["plane"].items()}
        if "problem" in item:
            return cls(plane, None, ServerProblem.from_json(item["status"], item["problem"]), item)
        return cls(plane, Prediction.from_json(item["prediction"]), None, item)


def planes_from_json(answer: bytes) -> list[PlaneAnswer]:
    """Of all planes, in the file's order."""
    return [PlaneAnswer.from_json(item) for item in orjson.loads(answer)["answers"]]
