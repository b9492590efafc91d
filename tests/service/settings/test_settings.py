"""The settings from flags, the environment and a file: which one wins, and what is said about wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.http.keys import Access
from service.settings.configuration import read_all_keys, read_settings
from service.settings.environment import PREFIX
from service.settings.settings import EMBEDDED_MODELS, MOST_BATCH_IMAGES, InvalidSettingsError, Settings

FLAG_KEY, ENVIRONMENT_KEY, FILE_KEY = "key-of-the-flag-0123", "key-of-the-environment-0123", "key-of-the-file-0123"
ADMIN_KEY = "key-of-the-administration-0123"

WriteFile = Callable[[str], str]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.setenv("MASKSERVE_MODELS", str(tmp_path))


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    """Writes a file of settings; gives the flag that names it."""

    def write(content: str) -> str:
        (tmp_path / "settings.toml").write_text(content, encoding="utf-8")
        return f"--config={tmp_path / 'settings.toml'}"

    return write


def refused(*arguments: str) -> str:
    """What is said about these."""
    with pytest.raises(InvalidSettingsError) as caught:
        read_all_keys(read_settings(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_environment_sets_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSERVE_PORT", "1234")
    monkeypatch.setenv("MASKSERVE_MAX_BATCH_SIZE", "3")
    settings = read_settings(["--port", "99", "--access-log", "--engine-threads=auto"])
    assert (settings.port, settings.max_batch_size, settings.access_log) == (99, 3, True)
    assert settings.engine_threads == "auto"
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "flag", "variable", "in_file", "values"),
    [
        pytest.param("port", "1", "2", "3", (1, 2, 3, 8000), id="number"),
        pytest.param("log_level", "debug", "warning", '"error"', ("debug", "warning", "error", "info"), id="word"),
        pytest.param(
            "cors_origins",
            "https://a,https://b",
            "https://c",
            '["https://d", "https://e"]',
            (("https://a", "https://b"), ("https://c",), ("https://d", "https://e"), ()),
            id="list",
        ),
        pytest.param("max_batch_size", "auto", "2", "3", ("auto", 2, 3, "auto"), id="number or word"),
        pytest.param("model", "a", "b", '"c"', ("a", "b", "c", None), id="nothing by default"),
    ],
)
def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
    write_file: WriteFile,
    name: str,
    flag: str,
    variable: str,
    in_file: str,
    values: tuple[object, ...],
) -> None:
    named = f"--{name.replace('_', '-')}"
    config = write_file(f"{name} = {in_file}")
    monkeypatch.setenv(PREFIX + name.upper(), variable)
    assert getattr(read_settings([config, named, flag]), name) == values[0]
    assert getattr(read_settings([f"{named}={flag}", config]), name) == values[0]
    assert getattr(read_settings([config]), name) == values[1]
    monkeypatch.delenv(PREFIX + name.upper())
    assert getattr(read_settings([config]), name) == values[2]
    assert getattr(read_settings([]), name) == values[3]


def test_a_switch_can_be_turned_either_way_from_anywhere(
    monkeypatch: pytest.MonkeyPatch, write_file: WriteFile
) -> None:
    config = write_file("access_log = false")
    assert not read_settings([config]).access_log
    monkeypatch.setenv("MASKSERVE_ACCESS_LOG", "true")
    assert read_settings([config]).access_log
    assert not read_settings([config, "--no-access-log"]).access_log
    monkeypatch.setenv("MASKSERVE_ACCESS_LOG", "false")
    assert read_settings([config, "--access-log"]).access_log


def test_a_flag_given_twice_is_what_it_was_last(write_file: WriteFile, tmp_path: Path) -> None:
    assert read_settings(["--port", "1", "--port", "2"]).port == 2
    other = tmp_path / "other.toml"
    other.write_text("port = 5")
    settings = read_settings([write_file("port = 4"), "--config", str(other)])
    assert (settings.port, settings.config) == (5, other)


def test_single_values_of_models_win_one_by_one(monkeypatch: pytest.MonkeyPatch, write_file: WriteFile) -> None:
    config = write_file(
        """
        max_queue_size = 50
        [per_model.cells]
        max_batch_size = 2
        keep_versions = 3
        max_queue_delay_ms = 1.5
        [per_model.streets]
        max_queue_size = 60
        """
    )
    monkeypatch.setenv("MASKSERVE_PER_MODEL", '{"cells": {"max_batch_size": 4, "keep_versions": 5}}')
    settings = read_settings([config, "--per-model", '{"cells": {"max_batch_size": 8}, "dots": {"keep_versions": 1}}'])
    cells, streets, dots, other = (settings.limits(name) for name in ("cells", "streets", "dots", "other"))
    assert (cells.max_batch_size, cells.keep_versions, cells.max_queue_delay_ms, cells.max_queue_size) == (
        8,
        5,
        1.5,
        50,
    )
    assert (streets.max_queue_size, streets.max_batch_size) == (60, "auto")
    assert (dots.keep_versions, other.keep_versions) == (1, 2)
    assert other.max_queue_size == 50


def test_keys_come_from_the_first_of_flag_environment_and_file_that_has_any(
    monkeypatch: pytest.MonkeyPatch, write_file: WriteFile
) -> None:
    config = write_file(f'api_keys = ["{FILE_KEY}"]\nadmin_keys = "{ADMIN_KEY}"')

    def accepted(*flags: str) -> set[str]:
        keys = read_all_keys(read_settings([config, *flags]))
        assert keys.access([ADMIN_KEY]) is Access.ADMINISTRATION
        return {key for key in (FLAG_KEY, ENVIRONMENT_KEY, FILE_KEY) if keys.access([key]) is Access.ORDINARY}

    assert accepted() == {FILE_KEY}
    monkeypatch.setenv("MASKSERVE_API_KEYS", f"{ENVIRONMENT_KEY}, {FILE_KEY}")
    assert accepted() == {ENVIRONMENT_KEY, FILE_KEY}
    assert accepted("--api-keys", FLAG_KEY) == {FLAG_KEY}


def test_keys_from_a_key_file_are_added_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# the lab's\n{FILE_KEY}\n")
    keys = read_all_keys(read_settings(["--api-keys-file", str(tmp_path / "keys"), "--api-keys", FLAG_KEY]))
    assert keys.access([FILE_KEY]) is keys.access([FLAG_KEY]) is Access.ORDINARY
    assert not keys.has_admin


def test_without_a_word_the_embedded_model_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKSERVE_MODELS")
    assert read_settings([]).models == EMBEDDED_MODELS
    assert EMBEDDED_MODELS.parent.name == "model"
    assert (EMBEDDED_MODELS.parent / "runtime").is_dir()


def test_a_request_has_as_many_images_as_the_shortest_queue_takes() -> None:
    assert read_settings([]).batch_images == MOST_BATCH_IMAGES
    assert read_settings(["--max-queue-size", "5"]).batch_images == 5
    assert read_settings(["--per-model", '{"a": {"max_queue_size": 3}}']).batch_images == 3
    assert read_settings(["--max-batch-images", "40"]).batch_images == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--port 70000", "--port 70000: should be less than or equal to 65535", id="out of range"),
        pytest.param("--port x", "--port x: should be a valid integer", id="not a number"),
        pytest.param(
            "--engine tensorrt", "should be 'auto', 'onnx', 'torchscript', 'openvino' or 'cuda'", id="unknown word"
        ),
        pytest.param("--max-batch-size 0", "greater than or equal to 1 or should be 'auto'", id="number or word"),
        pytest.param("--timeout-ms 0", "--timeout-ms 0: should be greater than 0", id="no time at all"),
        pytest.param("--timeout-ms inf", "--timeout-ms inf: should be a finite number", id="no limit at all"),
        pytest.param("--poll-interval-ms nan", "--poll-interval-ms nan: should be a finite number", id="no number"),
        pytest.param("--nope 1", "unrecognized arguments: --nope 1; see --help", id="unknown flag"),
        pytest.param("--prot 1", "--prot 1; did you mean --port?", id="misspelled flag"),
        pytest.param("--max_batch_siz 1", "did you mean --max-batch-size?", id="misspelled, with underscores"),
        pytest.param("--max-batch 1", "unrecognized arguments", id="an abbreviation is not a flag"),
        pytest.param("stray", "unrecognized arguments: stray", id="stray word"),
        pytest.param("--port", "--port: expected one argument", id="no value"),
        pytest.param("--config", "--config: expected one argument", id="no file"),
        pytest.param("--config=", "--config: no file is named", id="an empty file name"),
        pytest.param("--models /no/such/folder", "/no/such/folder is not a folder", id="no such folder"),
        pytest.param(f"--models {'a' * 5000}", "is not a folder", id="a path longer than there can be"),
        pytest.param("--device gpu", "--device gpu: there is no device 'gpu'", id="unknown device"),
        pytest.param("--host a..b", "--host a..b: is no name of a host", id="no host"),
        pytest.param("--cors-origins lab.example", "give SCHEME://HOST", id="an origin without its scheme"),
        pytest.param("--root-path seg", "--root-path seg: is no path; give one such as /segmentation", id="no path"),
        pytest.param("--root-path //seg", "is no path", id="a path that would be a host"),
        pytest.param("--trusted-keys c2hvcnQ=", "--trusted-keys: no base64 of 32 bytes", id="a short public key"),
        pytest.param("--trusted-proxies proxy.lab", "does not appear to be an IPv4 or IPv6", id="a proxy by its name"),
        pytest.param("--trusted-proxies 10.0.0.1/8", "has host bits set", id="an address for a network"),
        pytest.param("--cors-origins https://lab.example/", "give SCHEME://HOST", id="an origin with a path"),
        pytest.param("--per-model nuclei", '--per-model: no JSON object; give one such as {"nu', id="no JSON"),
        pytest.param('--per-model {"a":{', "--per-model: no JSON object", id="half a JSON"),
        pytest.param('--per-model {"a":4}', "--per-model.a 4: should be as in {", id="no settings"),
        pytest.param(
            '--per-model {"nuclei":{"max_batch_size":0}}',
            "--per-model.nuclei.max_batch_size 0: should be greater than or equal to 1",
            id="out of range for one model",
        ),
        pytest.param(
            '--per-model {"nuclei":{"max_queue":1}}',
            "--per-model.nuclei.max_queue 1: no such setting of a model; did you mean max_queue_size?",
            id="unknown for one model",
        ),
        pytest.param(
            '--per-model {"nuclei":{"port":1}}',
            "max_batch_size, max_queue_delay_ms, max_queue_size, keep_versions",
            id="a setting that models don't have",
        ),
    ],
)
def test_a_wrong_flag_is_one_clear_line(arguments: str, message: str) -> None:
    assert message in refused(*arguments.split())


def test_a_wrong_value_is_shown_in_one_line_and_not_longer_than_it_helps() -> None:
    assert refused("--port", "1\n2") == "--port 1 2: should be a valid integer, unable to parse string as an integer"
    assert len(refused("--max-pixels", "9" * 5000)) < 300


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        pytest.param("MASKSERVE_PORT", "x", "--port x: should be a valid integer", id="wrong value"),
        pytest.param("MASKSERVE_TIMEOUT_MS", "", "--timeout-ms : should be a valid number", id="empty"),
        pytest.param("MASKSERVE_PROT", "1", "did you mean MASKSERVE_PORT?", id="misspelled"),
        pytest.param("maskserve_prot", "1", "did you mean MASKSERVE_PORT?", id="misspelled in small letters"),
        pytest.param("MASKSERVE_MODELS", "", "--models : no path in it", id="no folder"),
        pytest.param("MASKSERVE_API_KEYS_FILE", "", "--api-keys-file : no path in it", id="no file of keys"),
        pytest.param("MASKSERVE_TRUSTED_KEYS", "", "--trusted-keys: no key in it", id="no trusted key"),
        pytest.param("maskserve_config", "", "--config: no file is named", id="no file, in small letters"),
        pytest.param("MASKSERVE_ZZZ", "1", "unknown setting MASKSERVE_ZZZ in the environment; see --help", id="alien"),
        pytest.param("MASKSERVE_CONFIG", "", "--config: no file is named", id="no file"),
        pytest.param("MASKSERVE_PER_MODEL", '{"a"', "--per-model: no JSON object", id="half a JSON"),
        pytest.param("MASKSERVE_PER_MODEL", "[]", "--per-model []: should be as in {", id="another JSON"),
        pytest.param(
            "MASKSERVE_PER_MODEL",
            json.dumps({"nuclei": {"max_queue_delay_ms": -1}}),
            "--per-model.nuclei.max_queue_delay_ms -1: should be greater than or equal to 0",
            id="out of range for one model",
        ),
    ],
)
def test_a_wrong_variable_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert message in refused()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('port = "x"', "--port x: should be a valid integer", id="text for a number"),
        pytest.param("port = true", "--port True: should not be true or false", id="a switch for a number"),
        pytest.param("host = 5", "--host 5: should be a valid string", id="a number for text"),
        pytest.param(
            "[port]\nnumber = 1", "--port {'number': 1}: should be a valid integer", id="a table for a number"
        ),
        pytest.param("cors_origins = 5", "--cors-origins 5: should be a list", id="a number for a list"),
        pytest.param("access_log = 2", "--access-log 2: should be a valid boolean", id="a number for a switch"),
        pytest.param("per_model = 4", "--per-model 4: should be as in {", id="a number for models"),
        pytest.param(
            "[per_model.nuclei]\nmax_batch_size = true",
            "--per-model.nuclei.max_batch_size True: should not be true or false",
            id="a switch for a model's number",
        ),
        pytest.param(
            "[per_model.nuclei]\nmax-batch-size = 1", "did you mean max_batch_size?", id="a model's in kebab case"
        ),
        pytest.param('versions = ["a:1"]', "should be as in {nuclei = 1}", id="a list for versions"),
        pytest.param("model_aliases = 1", 'should be as in {best = "nuclei:1"}', id="a number for aliases"),
        pytest.param("prot = 1", "unknown setting prot in ", id="misspelled"),
        pytest.param("prot = 1", "; did you mean port?", id="misspelled, with the right name"),
        pytest.param("zzz = 1", "; see --help", id="like nothing known"),
        pytest.param("max-batch-size = 1", "; did you mean max_batch_size?", id="in kebab case"),
        pytest.param("MASKSERVE_PORT = 1", "unknown setting MASKSERVE_PORT in ", id="the variable's name"),
        pytest.param('config = "other.toml"', "itself has no effect; name the file by --config", id="another file"),
        pytest.param("port =", "is no TOML: Invalid value", id="not TOML"),
        pytest.param("port = 1\nport = 2", "is no TOML: Cannot overwrite a value", id="twice"),
    ],
)
def test_a_wrong_file_is_one_clear_line(write_file: WriteFile, content: str, message: str) -> None:
    assert message in refused(write_file(content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, latin = tmp_path / "missing.toml", tmp_path / "latin.toml"
    latin.write_bytes(b"# caf\xe9")
    assert refused("--config", str(missing)) == f"--config: {missing} cannot be read: No such file or directory"
    assert refused("--config", str(tmp_path)) == f"--config: {tmp_path} cannot be read: Is a directory"
    assert f"{latin} is no TOML" in refused("--config", str(latin))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--max-queue-delay-ms", "500", "--timeout-ms", "500"],
            "max-queue-delay-ms (500) leaves nothing of timeout-ms (500)",
            id="a delay as long as the deadline",
        ),
        pytest.param(
            ["--timeout-ms", "500", "--per-model", '{"cells": {"max_queue_delay_ms": 600}}'],
            "max-queue-delay-ms of cells (600) leaves nothing of timeout-ms (500)",
            id="one model's delay",
        ),
        pytest.param(
            ["--max-batch-images", "65"],
            "max-batch-images (65) can never enter the queue of max-queue-size (64)",
            id="more images than places",
        ),
        pytest.param(
            ["--max-batch-images", "9", "--per-model", '{"cells": {"max_queue_size": 8}}'],
            "max-batch-images (9) can never enter the queue of cells of max-queue-size (8)",
            id="more images than one model's places",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_a_models_own_setting_can_lift_a_contradiction() -> None:
    shorter = '{"cells": {"max_queue_delay_ms": 100, "max_queue_size": 100}}'
    settings = read_settings(["--timeout-ms", "500", "--max-queue-delay-ms", "400", "--per-model", shorter])
    assert settings.limits("cells").max_queue_delay_ms == 100


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param(["--api-keys", FLAG_KEY, "--admin-keys", FLAG_KEY], "also among --api-keys", id="for everything"),
        pytest.param(["--api-keys", f"{FLAG_KEY},short"], "--api-keys, key 2 of 2: the key is shorter", id="short"),
        pytest.param(["--admin-keys", "one two three four five"], "--admin-keys, key 1 of 1: whitespace", id="spaces"),
        pytest.param(["--api-keys", "schl\u00fcssel-0123456789"], "not printable ASCII", id="not ASCII"),
        pytest.param(["--api-keys", ""], "no key in it; leave the setting out", id="none, which would open the server"),
        pytest.param(["--api-keys", " , "], "no key in it; leave the setting out", id="none but a comma"),
        pytest.param(["--api-key", FLAG_KEY], "--api-key; did you mean --api-keys?", id="a misspelled flag"),
        pytest.param([f"--api-key={FLAG_KEY}"], "--api-key; did you mean --api-keys?", id="a misspelled flag with ="),
        pytest.param(["--api-keys", "a,", FLAG_KEY], "unrecognized arguments", id="a space behind the comma"),
        pytest.param(["--api-keys-file", "/no/such/file"], "/no/such/file cannot be read: No such file", id="no file"),
        pytest.param(["--admin-keys-file", "/"], "--admin-keys-file: / cannot be read: Is a directory", id="a folder"),
        pytest.param(["--port", "x", "--api-keys", FLAG_KEY], "--port x", id="another setting is wrong"),
    ],
)
def test_wrong_keys_are_refused_and_never_shown(keys: list[str], message: str) -> None:
    said = refused(*keys)
    assert message in said
    assert not any(key in said for key in (FLAG_KEY, "schl", "one two"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("api_keys = 1234567890123456", id="a number"),
        pytest.param("api_keys = [1234567890123456]", id="numbers"),
        pytest.param("api_keys = {secret = 1234567890123456}", id="a table"),
        pytest.param("admin_keys = ['1234567890123456', '1234567890123456' 5]", id="not TOML"),
        pytest.param("api_keys = '1234567890123456'\nadmin_keys = ['1234567890123456']", id="for everything"),
    ],
)
def test_keys_in_a_wrong_file_are_never_shown(write_file: WriteFile, content: str) -> None:
    assert "1234567890123456" not in refused(write_file(content))


def test_keys_do_not_show_in_the_settings_repr() -> None:
    settings = read_settings(["--api-keys", FLAG_KEY, "--admin-keys", ADMIN_KEY])
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert FLAG_KEY not in shown
        assert ADMIN_KEY not in shown
