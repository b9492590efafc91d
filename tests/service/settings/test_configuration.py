"""The manual, `--check`, and every way in which a start can fail before it begins."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from model.runtime.engines.devices import count_gpus
from service.settings.configuration import effective, manual, read_settings
from service.settings.environment import PREFIX
from service.settings.settings import GROUPS, Settings
from tests.patience import PATIENCE
from tests.service.harness import ROOT, ended, publish_probe

KEY, ADMIN_KEY = "key-of-the-flag-0123", "key-of-the-administration-0123"
NOT_IN_A_FILE = {"config", "api_keys", "admin_keys"}
"""What `--check` prints as comments only."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith((PREFIX, "OTEL_")):
            monkeypatch.delenv(name)


def without_comments(shown: str) -> str:
    return re.sub(r"  # \w+$", "", shown, flags=re.MULTILINE)


def test_every_setting_is_in_the_manual_once() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(Settings.model_fields)
    flags = re.findall(r"^  --([a-z-]+)", manual(), re.MULTILINE)
    assert flags == [name.replace("_", "-") for name in names]
    for title in GROUPS:
        assert manual().count(f"\n{title}\n") == 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_manual_has_a_settings_flag_variable_description_and_default(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    entry = re.search(rf"^  --{name.replace('_', '-')}\b.*\n((?: {{8}}.*\n?)+)", manual(), re.MULTILINE)
    assert entry is not None
    text = " ".join(entry[1].split())
    assert text.startswith(field.description)
    assert text.endswith(f"[{PREFIX}{name.upper()}]")
    if field.default not in (None, (), {}):
        shown = re.search(r"\(default: (.*)\)", text)
        assert shown is not None
        default = json.dumps(field.default) if isinstance(field.default, tuple) else str(field.default)
        assert shown[1].strip('"') == (default.lower() if isinstance(field.default, bool) else default)


def test_the_manual_fits_a_terminal_and_every_character_is_plain() -> None:
    assert manual().isascii()
    assert max(len(line) for line in manual().splitlines() if str(ROOT) not in line) <= 120


def test_a_switch_shows_how_to_turn_it_off() -> None:
    assert "--access-log, --no-access-log" in manual()


def test_the_manual_is_printed_whatever_else_is_wrong() -> None:
    done = ended("--port", "x", "--help", MASKSERVE_NOPE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, manual() + "\n", "")


@pytest.mark.parametrize(
    "redirection",
    [
        pytest.param("| head -1", id="a reader that leaves after a line"),
        pytest.param("| true", id="a reader that reads nothing"),
        pytest.param(">&-", id="closed"),
        pytest.param(
            ">/dev/full", id="full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
        ),
    ],
)
def test_a_manual_that_nobody_can_read_is_no_accident(redirection: str) -> None:
    command = f'"{sys.executable}" -m service --help {redirection}'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (manual().split("\n")[0] + "\n" if "head" in redirection else "")


def test_what_holds_is_shown_with_its_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("port = 1\ntimeout_ms = 2000\nmax_batch_size = 3")
    monkeypatch.setenv("MASKSERVE_PORT", "4")
    monkeypatch.setenv("MASKSERVE_TIMEOUT_MS", "5000")
    monkeypatch.setenv("maskserve_max_uploads", "3")
    arguments = [f"--config={tmp_path / 's.toml'}", "--port", "6", "--no-access-log"]
    lines = effective(read_settings(arguments), arguments).splitlines()
    for shown in (
        "port = 6 # flag",
        "access_log = false # flag",
        f'# config = "{tmp_path / "s.toml"}" # flag',
        "timeout_ms = 5000 # environment",
        "max_uploads = 3 # environment",
        "max_batch_size = 3 # file",
        'host = "127.0.0.1" # default',
        "# model is not set # default",
    ):
        assert shown in [" ".join(line.split()) for line in lines]


def test_what_is_shown_is_a_settings_file_that_gives_the_same(tmp_path: Path) -> None:
    models = tmp_path / 'quote " backslash \\ tab \t emoji \U0001f52c del \x7f'
    models.mkdir()
    file = tmp_path / "s.toml"
    file.write_text(
        'model = "a.b"\n[per_model."a.b"]\nmax_queue_delay_ms = 0.1\n[per_model.c]\nmax_batch_size = "auto"'
    )
    flags = {
        "config": str(file),
        "host": "::1",
        "cors-origins": "https://a.example,*",
        "models": str(models),
        "poll-interval-ms": "1234.5678",
        "timeout-ms": "1234567.25",
        "drain-timeout-ms": "1e15",
        "max-batch-size": "7",
        "max-body-bytes": str(2**40),
        "device": "cpu,cpu",
        "log-format": "text",
        "api-keys": KEY,
        "admin-keys": ADMIN_KEY,
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)] + ["--no-access-log"]
    settings = read_settings(arguments)
    shown = effective(settings, arguments)
    assert KEY not in shown
    assert ADMIN_KEY not in shown
    (tmp_path / "again.toml").write_text(shown, encoding="utf-8")
    again = read_settings(["--config", str(tmp_path / "again.toml")])
    for name in Settings.model_fields.keys() - NOT_IN_A_FILE:
        assert getattr(again, name) == getattr(settings, name), name
    assert again.api_keys == again.admin_keys == ()
    assert without_comments(effective(again, [])).count("\n") == shown.count("\n")


@pytest.mark.parametrize("arguments", [[], ["--precision=f32"], ["--precision=auto"]])
def test_what_is_shown_says_a_precision_only_where_somebody_did(arguments: list[str], tmp_path: Path) -> None:
    """Where nobody does, the engine cuda may compute in f16."""
    settings = read_settings(arguments)
    (tmp_path / "again.toml").write_text(effective(settings, arguments))
    again = read_settings(["--config", str(tmp_path / "again.toml")])
    assert again.names_precision == settings.names_precision == bool(arguments)
    assert again.precision == settings.precision


def test_check_tells_what_would_be_served_without_listening(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for _ in range(3):
        publish_probe(tmp_path / "staging", models)
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        done = ended(
            "--check",
            "--models",
            str(models),
            "--port",
            port,
            "--api-keys",
            KEY,
            "--keep-versions",
            "2",
            "--engine",
            "onnx",
        )
    assert (done.returncode, done.stderr) == (0, "")
    *settings, newest, kept = done.stdout.splitlines()
    assert (newest, kept) == ("# probe/3: can be served, in f32 by onnx", "# probe/2: can be served, in f32 by onnx")
    assert KEY not in done.stdout
    assert len(settings) == len(Settings.model_fields)
    (tmp_path / "again.toml").write_text(done.stdout)
    again = read_settings(["--config", str(tmp_path / "again.toml")])
    assert (again.models, again.port, again.keep_versions) == (models, int(port), 2)


@pytest.mark.parametrize(
    "version", [pytest.param(2, id="the one that would answer"), pytest.param(1, id="an older one that would be kept")]
)
def test_check_fails_when_a_version_is_refused(tmp_path: Path, version: int) -> None:
    models = tmp_path / "models"
    for _ in range(2):
        publish_probe(tmp_path / "staging", models)
    network = models / "probe" / str(version) / "model.onnx"
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)
    done = ended("--check", "--models", str(models))
    assert done.returncode == 1
    assert done.stderr == f"maskserve: cannot be served: probe/{version}; the reasons are on stdout\n"
    assert "max_queue_size = 64" in done.stdout
    assert (
        f"# probe/{3 - version}: can be served, in f32 by onnx, " in done.stdout
    )  # and why, as the choice was its own
    assert re.search(rf"^# probe/{version}: .*{re.escape(str(network))}.*$", done.stdout, re.MULTILINE)


def test_a_model_that_is_set_but_not_there_is_told_with_those_that_are(tmp_path: Path, repository: Path) -> None:
    for flags in (["--check"], ["--port", "0"]):
        done = ended(*flags, "--models", str(repository), "--per-model", '{"prob": {"max_batch_size": 2}}')
        message = f"maskserve: --per-model: {repository} has no prob; it has probe\n"
        assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        pytest.param(["--port", "x"], {}, "--port x: should be a valid integer", id="value"),
        pytest.param(["--api-key", KEY], {}, "--api-key; did you mean --api-keys?", id="flag"),
        pytest.param([], {"MASKSERVE_API_KEYS": "short"}, "--api-keys, key 1 of 1: the key is shorter", id="key"),
        pytest.param(["--models", "/no/such\nfolder"], {}, "--models: /no/such folder is not a folder", id="folder"),
        pytest.param(["--config", "/"], {}, "--config: / cannot be read: Is a directory", id="file"),
        pytest.param(["--max-batch-images", "65"], {}, "can never enter the queue", id="contradiction"),
        pytest.param([], {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "collector:4317 is no URL", id="collector"),
        pytest.param(["--check", "--port", "x"], {}, "--port x: should be a valid integer", id="value, checked"),
        pytest.param(
            ["--check"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "is no URL", id="collector, checked"
        ),
    ],
)
def test_whatever_stops_the_start_is_one_line(flags: list[str], environment: dict[str, str], message: str) -> None:
    done = ended(*flags, **{"MASKSERVE_PORT": "0", **environment})
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert done.stderr.startswith("maskserve: ")
    assert message in done.stderr
    assert KEY not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_repository_that_may_not_be_read_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir(mode=0o300)
    done = ended("--models", str(tmp_path / "models"), MASKSERVE_PORT="0")
    assert done.returncode == 2
    assert done.stderr == f"maskserve: --models: [Errno 13] Permission denied: '{tmp_path / 'models'}'\n"


@pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "cpu,cuda"])
@pytest.mark.parametrize("check", [[], ["--check"]], ids=["start", "check"])
def test_a_device_that_is_not_there_is_a_wrong_setting(repository: Path, device: str, check: list[str]) -> None:
    done = ended(*check, "--models", str(repository), "--device", device, MASKSERVE_PORT="0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"maskserve: device '{device.rpartition(',')[2]}' was asked for, but ")
    assert line.endswith("; choose 'cpu' or 'auto'")


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["start", "check"])
def test_an_engine_that_no_version_has_a_file_for_is_a_wrong_setting(repository: Path, check: list[str]) -> None:
    done = ended(*check, "--models", str(repository), "--engine", "torchscript", MASKSERVE_PORT="0")
    assert done.returncode == 2
    reason = done.stderr.splitlines()[-1]
    assert "has no model.torchscript.pt, which the torchscript engine runs; use another engine" in reason


def test_an_engine_whose_library_is_not_installed_is_a_wrong_setting(tmp_path: Path) -> None:
    staging, models, packages = (tmp_path / name for name in ("staging", "models", "packages"))
    staging.mkdir()
    packages.mkdir()
    (staging / "model.torchscript.pt").write_bytes(b"never read")
    publish_probe(staging, models)
    (packages / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    environment = {"MASKSERVE_PORT": "0", "PYTHONPATH": str(packages)}
    for flags in (["--check"], [], ["--device", "cuda"]):
        done = ended(*flags, "--models", str(models), "--engine", "torchscript", **environment)
        assert done.returncode == 2
        reason = done.stderr.splitlines()[-1]
        assert "the torchscript engine needs torch and torchvision (No module named 'torch'); " in reason
        assert ".venv/bin/pip install '.[train]'" in reason
    (packages / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\")")
    done = ended("--check", "--models", str(models), "--engine", "openvino", **environment)
    assert done.returncode == 2
    reason = done.stderr.splitlines()[-1]
    assert (
        "the openvino engine needs openvino (No module named 'openvino'); .venv/bin/pip install '.[openvino]'" in reason
    )


@pytest.mark.parametrize("below", ["probe", "probe/1"])
def test_one_models_folder_and_one_bundle_can_be_served(repository: Path, below: str) -> None:
    done = ended("--check", "--models", str(repository / below))
    assert (done.returncode, done.stderr) == (0, "")
    assert "# probe/1: can be served" in done.stdout


def test_a_folder_that_could_be_read_in_two_ways_is_one_line(tmp_path: Path, repository: Path) -> None:
    for place in ("probe/1", "1"):
        shutil.copytree(repository / "probe" / "1", tmp_path / place)
    done = ended("--check", "--models", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "give each a folder of its own" in done.stderr


def test_a_network_that_cannot_run_is_one_line(tmp_path: Path, repository: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    (tmp_path / "models" / "probe" / "1" / "manifest.json").write_text("{")
    done = ended("--check", "--models", str(tmp_path / "models"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("maskserve: ")
