"""OpenVINO that is installed and cannot run is told as what it is, in one line, whatever its parts raise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.architecture import Task
from model.runtime import engines
from model.runtime.bundles.bundle import Bundle
from model.runtime.engines.engine import Unavailable
from model.runtime.engines.loading import computes_on_cpu, load_engine, why_no_openvino

Publish = Callable[[Task], Bundle]

NO_LIBRARY = "raise ImportError('libtbb.so.12: cannot open shared object file')"
NO_SYMBOL = "raise OSError('undefined symbol: _ZN2ov4Core')"
TOO_OLD = "get_version = lambda: '2024.6.0-1'"
NO_PLUGIN = """
class Core:
    def get_property(self, *_):
        raise RuntimeError("Exception from src/core_impl.cpp:79:\\nCannot load library libopenvino_intel_cpu.so")
get_version = lambda: "2026.4.1-1"
"""

BROKEN = {
    "a library is missing": (NO_LIBRARY, "ImportError: libtbb.so.12: cannot open shared object file"),
    "a library of another release": (NO_SYMBOL, "OSError: undefined symbol"),
    "another package of this name": ("", "AttributeError: "),
    "too old": (TOO_OLD, "ImportError: it is 2024.6.0-1, which is older than 2026.4"),
    "no plugin for processors": (NO_PLUGIN, "RuntimeError: Cannot load library libopenvino_intel_cpu"),
}


OURS = "model.runtime.engines.openvino"


@pytest.fixture
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Puts such a package in the place of OpenVINO; gives what is wrong with it."""
    content, wrong = request.param
    (tmp_path / "openvino.py").write_text(content)
    names = [name for name in sys.modules if name == OURS or name.partition(".")[0] == "openvino"]
    kept = {name: sys.modules.pop(name) for name in names}
    monkeypatch.delattr(engines, "openvino", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield str(wrong)
    for name in ("openvino", OURS):  # what was imported meanwhile is nobody else's
        sys.modules.pop(name, None)
    vars(engines).pop("openvino", None)
    sys.modules.update(kept)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys(), indirect=True)
def test_it_is_told_in_one_line(broken: str, publish: Publish) -> None:
    why = why_no_openvino()
    assert why is not None
    assert why.startswith(f"openvino is installed but cannot be loaded ({broken}")
    bundle = publish("boxes")
    for refused in (lambda: computes_on_cpu("auto", "openvino"), lambda: load_engine(bundle, "openvino", "cpu")):
        with pytest.raises(Unavailable) as raised:
            refused()
        assert str(raised.value) == f"{why}; install it anew, or use the onnx engine"
        assert "\n" not in str(raised.value)


def test_what_is_not_installed_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.runtime.engines.loading.find_spec", lambda name: None)
    assert why_no_openvino() == "openvino is not installed"
