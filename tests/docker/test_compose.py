"""The compose files: valid, and of one piece with the Dockerfile and the server's settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from service.server import FLUSH_SECONDS
from service.settings.environment import PREFIX
from service.settings.settings import Settings
from tests.docker.dockerfile import last, last_list, lineage, read_stages, variables
from tests.patience import PATIENCE
from tests.service.harness import ROOT

FILES = ("docker-compose.yml", "docker/compose.gpu.yml", "docker/compose.index.yml")
CHOSEN_BY_THE_IMAGE = {"host", "port", "models"}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


COMPOSE = read("docker-compose.yml")
SERVE, TRAIN = COMPOSE["services"]["serve"], COMPOSE["services"]["train"]


def compose_command() -> list[str] | None:
    """`docker compose`, or the older `docker-compose`; None where there is neither."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


@pytest.mark.parametrize("also", [None, "docker/compose.gpu.yml", "docker/compose.index.yml"], ids=str)
def test_compose_itself_finds_the_files_valid(also: str | None) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("compose needs docker compose or docker-compose (Debian: apt-get install docker-compose)")
    if also == "docker/compose.index.yml" and command == ["docker-compose"]:
        pytest.skip("docker-compose 1 knows no build secrets")
    files = ["-f", "docker-compose.yml", *(["-f", also] if also else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    done = subprocess.run(
        [*command, *files, "--profile", "monitoring", "--profile", "train", "config", "--quiet"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_services_are_built_from_targets_that_exist() -> None:
    stages = read_stages()
    targets = {"serve": "serve-cpu", "train": "train"}
    for name, target in targets.items():
        build = COMPOSE["services"][name]["build"]
        assert (build["context"], build["dockerfile"], build["target"]) == (".", "docker/Dockerfile", target)
        assert build["args"]["BASE"] == "${BASE_IMAGE:-python:3.11-slim-bookworm}"
        assert target in stages
    gpu = read("docker/compose.gpu.yml")["services"]
    # Each target has a name of its own, or `up` would take the one that was built before.
    assert gpu["serve"]["build"]["target"] == gpu["serve"]["image"].replace("maskserve:", "serve-")
    assert {f"serve-{kind}" for kind in ("cuda", "cuda-torch")} <= set(stages)
    assert gpu["serve"]["image"] == "maskserve:${GPU_IMAGE:-cuda}"
    for service in gpu.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
    assert len({SERVE["image"], TRAIN["image"], gpu["serve"]["image"]}) == 3
    secrets = read("docker/compose.index.yml")
    for service in secrets["services"].values():
        assert set(service["build"]["secrets"]) == set(secrets["secrets"])


def test_every_setting_reaches_the_server_and_nothing_else_does() -> None:
    environment = SERVE["environment"]
    expected = {PREFIX + name.upper() for name in set(Settings.model_fields) - CHOSEN_BY_THE_IMAGE}
    assert {name for name in environment if name.startswith(PREFIX)} == expected
    # Without a value it is taken from the shell if it is there: an empty one would be refused, or mean something.
    given = {name: value for name, value in environment.items() if value is not None}
    assert given == {"MASKSERVE_MODEL": "${MASKSERVE_MODEL:-nuclei}", "XDG_CACHE_HOME": "/cache"}
    gpu = read("docker/compose.gpu.yml")["services"]["serve"]["environment"]
    assert set(gpu) <= expected


def test_the_default_model_is_the_embedded_one() -> None:
    assert (ROOT / "model" / "embedded" / "nuclei").is_dir()


def test_the_service_listens_where_compose_publishes_it() -> None:
    (published,) = SERVE["ports"]
    assert published == f"${{PUBLISH:-127.0.0.1:8000}}:{Settings.model_fields['port'].default}"
    assert variables("serve-cpu")["MASKSERVE_HOST"] == "0.0.0.0"
    assert read_stages()["serve"].all("EXPOSE") == ["8000"]


@pytest.mark.parametrize("service", [SERVE, TRAIN], ids=["serve", "train"])
def test_a_container_can_do_no_more_than_it_must(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "user" not in service  # the image's, which is not root
    assert "privileged" not in service


def test_training_publishes_where_the_server_looks() -> None:
    models = variables("serve-cpu")["MASKSERVE_MODELS"]
    assert f"models:{models}:ro" in SERVE["volumes"]
    assert f"models:{models}" in TRAIN["volumes"]
    entrypoint = last_list("train", "ENTRYPOINT")
    assert entrypoint[entrypoint.index("--repository") + 1] == models
    assert f"training:{variables('train')['HOME']}" in TRAIN["volumes"]
    assert {"models", "training"} <= set(COMPOSE["volumes"])
    assert Settings.model_fields["poll_interval_ms"].default > 0


@pytest.mark.parametrize("target", ["serve-cpu", "serve-cuda", "serve-cuda-torch"])
def test_compiled_networks_outlive_the_container_in_a_volume_of_the_servers_user(target: str) -> None:
    volumes = dict(volume.split(":", 1) for volume in SERVE["volumes"])
    assert volumes["cache"] == SERVE["environment"]["XDG_CACHE_HOME"]
    assert "cache" in COMPOSE["volumes"]
    commands = [rest for stage in lineage(target) for rest in stage.all("RUN")]
    # A new volume takes its owner over.
    assert f"mkdir {volumes['cache']} && chown {last(target, 'USER')} {volumes['cache']}" in commands


def test_compose_waits_until_the_server_has_answered_what_it_accepted() -> None:
    grace = re.fullmatch(r"(\d+)s", SERVE["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > Settings.model_fields["drain_timeout_ms"].default / 1e3 + FLUSH_SECONDS


def test_up_starts_the_service_alone() -> None:
    profiles = {name: service.get("profiles") for name, service in COMPOSE["services"].items()}
    assert profiles == {"serve": None, "train": ["train"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_what_is_mounted_is_there_and_what_is_pulled_has_a_version() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
        for port in service.get("ports", []):
            assert "127.0.0.1:" in port, "without keys everybody may ask"
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"\$\{\w+:-[\w/-]+:v?\d+\.\d+\.\d+\}", COMPOSE["services"][name]["image"])


def test_no_file_tells_of_the_machine_it_was_written_on() -> None:
    for path in (*(ROOT / "docker").rglob("*"), *(ROOT / name for name in FILES)):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"/work/|/root/|/home/", path.read_text().replace("training:/work", "")), path
