"""Settings from flags and the environment, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.configuration import read_settings
from service.settings import EMBEDDED_MODELS, PREFIX, InvalidSettingsError, Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.setenv("MASKSERVE_MODELS", str(tmp_path))


def test_the_environment_sets_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSERVE_PORT", "1234")
    monkeypatch.setenv("MASKSERVE_MAX_BATCH_SIZE", "3")
    settings = read_settings(["--port", "99", "--access-log", "--engine-threads=auto"])
    assert (settings.port, settings.max_batch_size, settings.access_log) == (99, 3, True)
    assert settings.engine_threads == "auto"
    assert settings.host == "127.0.0.1"


def test_without_a_word_the_embedded_model_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.model_fields["models"].default == EMBEDDED_MODELS
    assert EMBEDDED_MODELS.parent.name == "model"
    assert (EMBEDDED_MODELS.parent / "runtime").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--port", "70000"], r"^--port 70000: should be less than or equal to 65535$", id="out of range"),
        pytest.param(["--port", "x"], r"^--port x: should be a valid integer", id="not a number"),
        pytest.param(
            ["--engine", "tensorrt"], "--engine tensorrt: should be 'onnx' or 'torchscript'", id="unknown word"
        ),
        pytest.param(["--max-batch-size", "0"], "greater than or equal to 1 or should be 'auto'", id="number or word"),
        pytest.param(["--timeout-ms", "0"], "--timeout-ms 0: should be greater than 0", id="no time at all"),
        pytest.param(["--nope", "1"], "unrecognized arguments: --nope 1; see --help", id="unknown flag"),
        pytest.param(["--max-batch", "1"], "unrecognized arguments", id="an abbreviation is not a flag"),
        pytest.param(["stray"], "unrecognized arguments: stray", id="stray word"),
        pytest.param(["--port"], "--port: expected one argument", id="no value"),
        pytest.param(["--models", "/no/such/folder"], "/no/such/folder is not a folder", id="no such folder"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidSettingsError, match=message) as caught:
        read_settings(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        pytest.param("MASKSERVE_PORT", "x", "--port x: should be a valid integer", id="wrong value"),
        pytest.param(
            "MASKSERVE_PROT", "1", "unknown setting MASKSERVE_PROT .* did you mean MASKSERVE_PORT", id="misspelled"
        ),
        pytest.param("MASKSERVE_ZZZ", "1", "unknown setting MASKSERVE_ZZZ .* see --help", id="like nothing known"),
    ],
)
def test_a_wrong_variable_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettingsError, match=message) as caught:
        read_settings([])
    assert "\n" not in str(caught.value)
