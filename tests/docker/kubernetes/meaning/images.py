"""Which of docker/Dockerfile's targets a container runs, and with which settings."""

from __future__ import annotations

import yaml
from pydantic import ValidationError

from service.settings.environment import PREFIX
from service.settings.settings import Settings
from tests.docker.dockerfile import read_stages, variables
from tests.docker.kubernetes.manifests import Manifest, find
from tests.service.harness import ROOT

GPU_IMAGE = "${GPU_IMAGE:-cuda}"
"""Of the two images for GPUs compose builds the one that a variable names."""


def _targets() -> dict[str, str]:
    """By the names that compose gives the images."""
    found: dict[str, str] = {}
    for file in ("docker/compose.gpu.yml", "docker-compose.yml"):
        for service in yaml.safe_load((ROOT / file).read_text())["services"].values():
            if "build" in service:
                image, target = service["image"], service["build"]["target"]
                for kind in ("cuda", "cuda-torch"):
                    found[image.replace(GPU_IMAGE, kind)] = target.replace(GPU_IMAGE, kind)
    return found


TARGETS = {image: target for image, target in _targets().items() if target in read_stages()}


def target_of(container: Manifest) -> str | None:
    return TARGETS.get(container.get("image", ""))


def environment_of(container: Manifest, documents: list[Manifest]) -> dict[str, str]:
    """What the manifests add to the image's."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        name = source.get("configMapRef", {}).get("name")
        if name is not None and (config := find(documents, "ConfigMap", name)) is not None:
            found |= config["data"]
    return found | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def settings_of(container: Manifest, documents: list[Manifest]) -> tuple[Settings | None, list[str]]:
    """What holds in a container that serves, or else what is wrong with it."""
    image = variables(target_of(container) or "serve-cpu")
    environment = {**image, **environment_of(container, documents)}
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    flags = [word.removeprefix("--").partition("=") for word in container.get("args", ())]
    given |= {PREFIX + name.replace("-", "_").upper(): value for name, _, value in flags}
    wrong = [
        f"{name} is no setting" for name in given if name.removeprefix(PREFIX).lower() not in Settings.model_fields
    ]
    if wrong:
        return None, wrong
    try:
        return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()}), []  # type: ignore[arg-type]  # as text, as the environment has them
    except ValidationError as error:
        return None, [f"{PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
