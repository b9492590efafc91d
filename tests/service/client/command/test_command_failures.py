"""When the client's command cannot do all that it was asked: how it ends, what it says and what it has written."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.client.command.main import ExitCode, main
from tests.patience import PATIENCE
from tests.service.client.loopback import Reply, loopback, problem
from tests.service.client.shell import command, lines
from tests.service.harness import Server

KEY = "0123456789abcdef0123"
Names = list[str]

BESIDE = "1 file passed over, no images by their endings: .txt (1)"


def test_an_unreadable_file_is_that_images_error(
    server: Server, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (images / "a\n.png").symlink_to("nowhere")
    output = tmp_path / "out"
    assert main([str(images), "--url", server.url, "--output", str(output)]) == ExitCode.SOME_FAILED
    assert lines(output)[0] == {
        "file": str(images / "a\n.png"),
        "problem": {
            "type": "urn:maskserve:client:unreadable-file",
            "title": "The file cannot be read",
            "detail": "No such file or directory",
        },
    }
    first = capfd.readouterr().err.splitlines()[0]
    assert first == f"{str(images / 'a')!r:.{len(str(images)) + 3}}\\n.png': The file cannot be read: " + (
        "No such file or directory"
    )


def test_a_server_that_is_not_there_ends_with_3_at_once(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.write_text("of an earlier run")
    assert main([str(images), "--url", "http://127.0.0.1:1", "--output", str(output)]) == ExitCode.NO_SERVER
    errors = capfd.readouterr().err.splitlines()
    assert errors[0] == "maskserve: The server cannot be reached: http://127.0.0.1:1: Connection refused"
    assert errors[1] == f"maskserve: 0 of 3 images answered, 0 failed; {BESIDE}"
    assert output.read_text() == "of an earlier run"


@pytest.mark.parametrize("models", [b"{}", b"[1]", b"not JSON"])
def test_a_server_of_another_kind_ends_with_3(images: Path, capfd: pytest.CaptureFixture[str], models: bytes) -> None:
    with loopback([Reply()], models=models) as server:
        assert main([str(images), "--url", server.url]) == ExitCode.NO_SERVER
    assert capfd.readouterr().err.startswith(f"maskserve: {server.url} answers, but is no maskserve server\n")


def test_a_path_that_the_server_does_not_have_ends_with_3(
    server: Server, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(images), "--url", server.url + "/elsewhere"]) == ExitCode.NO_SERVER
    assert capfd.readouterr().err.startswith("maskserve: Not Found: ")


def test_a_wrong_key_ends_with_3_and_the_right_one_works(
    start_server: Callable[..., Server],
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(images), "--url", start_server("--api-keys", KEY).url, "--output", os.devnull]
    wrong = KEY[::-1]
    assert main(arguments) == ExitCode.NO_SERVER
    assert main([*arguments, "--api-key", wrong]) == ExitCode.NO_SERVER
    assert main([*arguments, "--api-key", KEY]) == ExitCode.ANSWERED
    monkeypatch.setenv("MASKSERVE_CLIENT_KEY", KEY)
    assert main(arguments) == ExitCode.ANSWERED
    errors = capfd.readouterr().err
    assert "An API key is needed: The key is not one of this server's" in errors
    assert KEY not in errors
    assert wrong not in errors


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_revoked_meanwhile_ends_the_run(images: Path, tmp_path: Path, status: int) -> None:
    output = tmp_path / "out"
    with loopback([Reply(), problem(status, "no")]) as server:
        code = main([str(images), "--url", server.url, "--output", str(output), "--jobs", "1"])
    assert code == ExitCode.NO_SERVER
    assert [line["file"] for line in lines(output)] == [str(images / "a.png")]


def test_a_server_that_goes_away_ends_the_run_and_what_is_finished_is_written(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(100)]
    for file in files:
        file.write_bytes(b"image")
    output = tmp_path / "out.json"
    arguments = ["--format", "coco", "--coco-images", str(tmp_path / "images.json"), "--retries", "0", "--jobs", "1"]
    with loopback([Reply(), Reply(), Reply(), Reply(seconds=60)]) as server:
        running = command(tmp_path, "--url", server.url, "--output", output, *arguments)
        while len(server.times) < 4:
            time.sleep(0.01)
    _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == ExitCode.NO_SERVER
    assert b"The server cannot be reached" in errors
    assert json.loads(output.read_bytes()) == []  # whole
    images = json.loads((tmp_path / "images.json").read_bytes())["images"]
    # The fourth was on its way, and the socket may have taken one more that nobody reads any more.
    assert [image["id"] for image in images] in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5])


def test_busy_is_waited_out_and_lost_connections_are_tried_again(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    troubles = [problem(429, "queue-full", Retry_After="0"), Reply(0), problem(503, "draining", Retry_After="0")]
    with loopback([*troubles, Reply()]) as server:
        assert main([str(images), "--url", server.url, "--output", str(output)]) == ExitCode.ANSWERED
        assert len(server.times) == 6
    assert len(lines(output)) == 3


def test_interrupted_it_writes_what_is_finished_and_ends_with_130(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with loopback([Reply(), Reply(), Reply(seconds=60)]) as server:
        running = command(images, "--url", server.url, "--output", output, "--jobs", "1")
        while len(server.times) < 3:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == ExitCode.INTERRUPTED
    assert [line["file"] for line in lines(output)] == [str(images / "a.png"), str(images / "b.JPG")]
    assert errors.decode().splitlines() == [
        "maskserve: interrupted",
        f"maskserve: 2 of 3 images answered, 0 failed; {BESIDE}",
    ]


def test_a_reader_that_leaves_is_no_stack_trace(images: Path) -> None:
    with loopback([Reply(seconds=0.2)]) as server:
        running = command(images, "--url", server.url, "--quiet")
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()
        running.stderr.close()
        assert running.wait(60) == ExitCode.WRONG_USAGE
    assert errors == b"maskserve: the results cannot be written: Broken pipe\n"


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        pytest.param(["--model", "nucle"], ExitCode.WRONG_USAGE, id="no such model"),
        pytest.param(["--version", "99"], ExitCode.WRONG_USAGE, id="no such version"),
        pytest.param(["--labels", "nothing"], ExitCode.WRONG_USAGE, id="no such label"),
        pytest.param(["--score-threshold", "7"], ExitCode.WRONG_USAGE, id="a parameter out of range"),
        pytest.param(["--coco-images", "/proc/x.json"], ExitCode.WRONG_USAGE, id="another output is unwritable"),
        pytest.param(["--overlay", "/proc/x"], ExitCode.WRONG_USAGE, id="no folder for overlays"),
    ],
)
@pytest.mark.parametrize("unreadable", [False, True], ids=["", "the first file is unreadable"])
def test_a_refusal_leaves_the_older_results(
    server: Server, images: Path, tmp_path: Path, flags: Names, code: int, unreadable: bool
) -> None:
    if unreadable:
        (images / "A.png").symlink_to("nowhere")
    old, new, drawn = tmp_path / "old", tmp_path / "new", tmp_path / "drawn"
    old.write_text("of an earlier run")
    for output in (old, new):
        places = ["--output", str(output), "--coco-images", str(tmp_path / "images.json"), "--overlay", str(drawn)]
        assert main([str(images), "--url", server.url, "--format", "coco", *places, *flags]) == code
    assert old.read_text() == "of an earlier run"
    assert sorted(os.listdir(tmp_path)) == ["images", "old"]


def test_files_of_which_none_can_be_read_are_results_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    output, dataset = tmp_path / "out.json", tmp_path / "images.json"
    arguments = ["--format", "coco", "--output", str(output), "--coco-images", str(dataset)]
    assert main([str(tmp_path / "a.png"), "--url", server.url, *arguments]) == ExitCode.SOME_FAILED
    assert json.loads(output.read_bytes()) == []
    assert [image["id"] for image in json.loads(dataset.read_bytes())["images"]] == [1]
