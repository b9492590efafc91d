"""What a version is loaded with: which sizes are computed first, and what is said where a device is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from model.runtime.engines.devices import count_gpus
from model.runtime.engines.engine import Unavailable
from model.runtime.predict import WarmUp
from service.__main__ import _load
from service.models.loading import Loader, RefusedError, warmed_up
from service.settings.settings import Settings
from service.settings.values import Auto
from tests.service.harness import publish_probe


@pytest.mark.parametrize(
    ("name", "device", "sizes"),
    [
        pytest.param("onnx", "cpu", "one", id="CPU"),
        pytest.param("openvino", "cpu", "one", id="OpenVINO"),
        pytest.param("onnx", "cuda:1", "largest", id="a GPU, where ONNX Runtime keeps no plan"),
        pytest.param("torchscript", "cuda", "every-bucket", id="TorchScript on a GPU"),
    ],
)
def test_sizes_that_are_computed_before_anybody_asks(name: str, device: str, sizes: WarmUp) -> None:
    engine = SimpleNamespace(name=name, device=device)
    assert warmed_up(engine) == sizes  # type: ignore[arg-type]  # as much of an engine as is looked at


@pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("processes", "instead"),
    [
        pytest.param(1, "'cpu' or 'auto'", id="one process"),
        pytest.param(2, r"'cpu', or name devices that can be used \(auto means every GPU .*\)", id="a share"),
        pytest.param("auto", r"'cpu', or name devices that can be used \(auto means every GPU .*\)", id="one each"),
    ],
)
def test_what_helps_is_told_where_a_device_is_not_there(repository: Path, processes: int | Auto, instead: str) -> None:
    """Nobody may have named the device of one of several processes, and `auto` would give it the same one."""
    settings = Settings(models=repository, device="cuda:1", processes=processes)
    with pytest.raises(Unavailable, match=rf"^device 'cuda:1' was asked for, but .*; choose {instead}$") as refused:
        Loader(settings)
    assert "\n" not in str(refused.value)


def test_what_others_have_seen_is_no_reason_to_serve_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a process that is started again: what was seen is damaged by now."""
    damaged = publish_probe(tmp_path / "staging", tmp_path / "models").path / "model.onnx"
    publish_probe(tmp_path / "staging", tmp_path / "models")
    settings, told = Settings(models=tmp_path / "models", device="cpu", engine_threads=1), list[str]()
    assert [str(model) for model in _load(settings, told.append, {"probe": (1,)}).served] == ["probe/1"]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert [str(model) for model in _load(settings, told.append, {"probe": (1,)}).served] == ["probe/2"]
    assert "cannot be served any more, and this one takes what there is: " in caplog.text
    tried = [line for line in told if line.startswith("loading")]
    assert tried == ["loading probe/1", "loading probe/1", "loading probe/2"]
    damaged.parent.parent.joinpath("2", "model.onnx").write_bytes(b"no network")
    for seen in ({"probe": (1,)}, None):
        with pytest.raises(RefusedError):
            _load(settings, told.append, seen)
