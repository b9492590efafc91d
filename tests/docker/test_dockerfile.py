"""The images, as far as the Dockerfile alone tells; docker/test.sh builds and runs one."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from service import VERSION
from service.settings.environment import PREFIX
from service.settings.settings import Settings
from tests.docker.dockerfile import DOCKERFILE, TARGETS, last, last_list, lineage, read_stages, variables
from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server


def test_the_targets_are_there_and_the_last_serves_on_any_machine() -> None:
    stages = read_stages()
    assert set(TARGETS) <= set(stages)
    assert list(stages)[-1] == "serve-cpu"


def test_every_stage_stands_on_the_base_that_is_an_argument() -> None:
    stages = read_stages()
    assert "BASE=python:3.11-slim-bookworm" in stages[""].all("ARG")
    for stage in list(stages.values())[1:]:
        assert stage.base == "${BASE}" or stage.base in stages, stage.name


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_its_program_itself_and_not_as_root(target: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(target, "USER"))  # a number, by which Kubernetes tells that it isn't
    module = "training.train" if target == "train" else "service"
    assert last_list(target, "ENTRYPOINT")[:3] == ["python", "-m", module]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_its_packages_in_one_layer_below_the_application(target: str) -> None:
    copies = [rest for stage in lineage(target) for rest in stage.all("COPY")]
    packages = "packages-" + target.removeprefix("serve-")
    application = "training" if target == "train" else "service"
    assert copies == [
        f"--from={packages} /opt/venv /opt/venv",
        f"--from={application} /app /app",
        f"--from={application} --chown=10001:10001 /models /models",
    ]
    installs = [
        rest for stage in lineage(target) for rest in stage.all("RUN") if "packages.py" in rest or "pip" in rest
    ]
    assert installs == []


def test_packages_depend_on_nothing_but_what_pins_them() -> None:
    assert read_stages()["packages"].all("COPY") == [
        "pyproject.toml constraints.txt ./",
        "docker/constraints.txt docker/packages.py docker/",
    ]
    for target in TARGETS:
        (run,) = read_stages()["packages-" + target.removeprefix("serve-")].all("RUN")
        assert f"python docker/packages.py /opt/venv {target} " in run


def test_no_compiler_is_installed_anywhere() -> None:
    assert not re.search(r"apt-get|apk |build-essential|gcc", DOCKERFILE.read_text())


def test_what_is_copied_from_the_repository_is_there_and_let_in() -> None:
    copies = [rest for stage in read_stages().values() for rest in stage.all("COPY") if "--from" not in rest]
    sources = [word for rest in copies for word in rest.split()[:-1]]
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in sources:
        assert (ROOT / source).exists()
        assert source in let_in or ("docker/*.py" in let_in and source.startswith("docker/")), source


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_with_the_release(target: str) -> None:
    labels = variables(target, "LABEL")
    title = "maskserve-train" if target == "train" else "maskserve"
    assert labels["org.opencontainers.image.title"] == title
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.description"]
    arguments = [rest for stage in lineage(target) for rest in stage.all("ARG")]
    assert f"VERSION={VERSION}" in arguments


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_sets_known_settings_and_reports_to_nobody(target: str) -> None:
    environment = variables(target)
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    assert {name for name in environment if name.startswith(PREFIX)} <= settings
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("target", ["serve-cpu", "serve-cuda"])
def test_the_health_check_tells_ready_from_not(target: str, server: Server) -> None:
    command = last_list(target, "HEALTHCHECK")

    def healthy(port: str) -> bool:
        environment = {**os.environ, "MASKSERVE_PORT": port}
        return subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE).returncode == 0

    assert healthy(server.url.rsplit(":", 1)[1])
    assert not healthy("1")
    assert f"MASKSERVE_PORT:-{Settings.model_fields['port'].default}" in command[-1]
