"""What is said of processes when they are ready."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.observability.ready import Ready, of_several, unlike


def member(engine: str, precision: str, device: str, models: str = "nuclei/1") -> Ready:
    return Ready(models, engine, precision, device, "" if engine == "cuda" else "onnx, as torch sees no GPU")


def test_of_several_each_device_is_said() -> None:
    ready = of_several([member("cuda", "f16", "cuda:0,cuda:1"), member("cuda", "f16", "cuda:2,cuda:3")])
    expected = "nuclei/1 ready at URL (cuda, f16, 2 processes on cuda:0+cuda:1, cuda:2+cuda:3, 1.5 s)"
    assert ready.line("URL", 1.5) == expected


def test_why_is_said_of_engine_and_precision() -> None:
    said = Ready("a/1", "onnx", "int8", "cpu", "onnx, as OTHER", "int8, which lost 0.10 points").line("URL", 1)
    assert said.endswith("; engine auto: onnx, as OTHER; precision auto: int8, which lost 0.10 points")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        pytest.param([member("cuda", "f16", "cuda:0")], "", id="one"),
        pytest.param([member("cuda", "f16", "cuda:0"), member("cuda", "f16", "cuda:1")], "", id="alike"),
        pytest.param(
            [member("cuda", "f16", "cuda:0"), member("onnx", "f32", "cuda:1")],
            "the processes do not answer alike: process 0 computes by cuda in f16 on cuda:0; process 1 computes by "
            "onnx in f32 on cuda:1 (onnx, as torch sees no GPU); say --engine and --precision, or name other devices",
            id="another engine",
        ),
        pytest.param(
            [member("cuda", "f16", "cuda:0"), member("cuda", "f32", "cuda:1", "nuclei/2")], "", id="another version"
        ),
    ],
)
def test_who_would_not_answer_alike_is_told(members: Sequence[Ready], said: str) -> None:
    assert unlike(members) == said
