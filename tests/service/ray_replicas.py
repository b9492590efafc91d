"""Replicas of Ray Serve that a test can hold. Ray's processes import this and little else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import serve

from service import ray_app
from tests.service.holding import FOLDER, install


class HoldingReplica(ray_app.Replica):
    def __init__(self) -> None:
        install()
        (Path(os.environ[FOLDER]) / f"replica-{os.getpid()}").touch()
        super().__init__()


def build(arguments: dict[str, Any]) -> serve.Application:
    """What a configuration names."""
    ray_app.Replica = HoldingReplica  # type: ignore[misc]  # in the process that builds, which does nothing else
    return ray_app.build(arguments)
