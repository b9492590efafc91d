"""OpenVINO runs a real (tiny) network of each kind, keeps what it compiled, and says why it cannot start."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import model
from model.architecture import Task
from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.engines import kept
from model.runtime.engines.engine import EngineError, Unavailable
from model.runtime.engines.loading import choose_devices, load_engine
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.images.decode import load_image
from model.runtime.predict import Predictor
from tests.model.runtime.engines.feeds import assert_threads_share, batch

if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

from model.runtime.engines import openvino
from model.runtime.engines.openvino import OpenVinoEngine

Publish = Callable[[Task], Bundle]

EMBEDDED = Path(model.__file__).parent / "embedded" / "nuclei" / "1"
NETWORK_FILES = ("model.onnx", "model.int8.onnx")
HAS_BFLOAT16 = "BF16" in openvino.CAPABILITIES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept._tell.cache_clear()
    return tmp_path / "cache" / "maskserve" / "networks"


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_runs_each_task_as_onnx_runtime_does(task: Task, publish: Publish) -> None:
    bundle = publish(task)
    engine = load_engine(bundle, "openvino", "cpu", threads=1)
    assert (engine.name, engine.device) == ("openvino", "cpu")
    for brightness in ((255, 51, 102), (0, 0), (80,)):
        feeds = batch(*brightness)
        feeds[0].flags.writeable = False  # as a decoded image may be
        ours, theirs = engine.run(*feeds), load_engine(bundle, device="cpu", threads=1).run(*feeds)
        for name in ("boxes", "scores", "labels", "image_index", "masks", "keypoint_heatmaps"):
            value, expected = getattr(ours, name), getattr(theirs, name)
            assert (value is None) == (expected is None)
            if expected is not None:
                assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
                np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next(publish: Publish) -> None:
    engine = load_engine(publish("masks"), "openvino", "cpu", threads=1)
    first = engine.run(*batch(255))
    engine.run(*batch(128))
    np.testing.assert_allclose(first.scores, [1.0], rtol=1e-6)


def test_several_threads_share_an_engine(publish: Publish) -> None:
    assert_threads_share(load_engine(publish("masks"), "openvino", "cpu", threads=1))


def test_closed_engine(publish: Publish) -> None:
    engine = load_engine(publish("boxes"), "openvino", "cpu", threads=1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(*batch(255))


def test_wrong_task_and_damaged_file(publish: Publish, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"outputs boxes, scores, labels, image_index; a model for masks has "):
        OpenVinoEngine(publish("boxes").path / "model.onnx", "masks", "cpu", 1)
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    for name in ("model.onnx", "absent.onnx"):
        with pytest.raises(EngineError, match=rf"{name} cannot be loaded by OpenVINO \d"):
            OpenVinoEngine(tmp_path / name, "masks", "cpu", 1)


BEYOND_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from model.runtime.bundles.bundle import open_bundle
from model.runtime.engines.engine import OutOfMemory
from model.runtime.engines.loading import load_engine
from tests.model.runtime.engines.feeds import batch

engine = load_engine(open_bundle(Path(sys.argv[1])), "openvino", "cpu", threads=1)
engine.run(*batch(255))
large = np.zeros((2, 4096, 4096, 3), np.uint8)  # 96 MiB
large.flags.writeable = False  # as a decoded image may be; OpenVINO copies it
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20, limits[1]))
try:
    engine.run(large, np.array([[4096, 4096]] * 2), np.full(2, 0.3, np.float32))
except OutOfMemory as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(engine.run(*batch(255)).scores.round(5))
"""
"""In a process of its own: one that has run other tests has memory that it freed and may use again."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_batch_that_exceeds_the_memory_is_told_and_the_engine_goes_on(publish: Publish) -> None:
    command = (sys.executable, "-c", BEYOND_MEMORY, str(publish("masks").path))
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    told, scores = process.stdout.splitlines()
    assert "batch of 2 does not fit into the memory of cpu" in told
    assert scores == "[1.]"


def test_devices(publish: Publish) -> None:
    bundle = publish("masks")
    assert choose_devices("cpu,cpu", "openvino") == ("cpu", "cpu")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(Unavailable, match=rf"'{device}' was asked for, but the openvino engine uses no NVIDIA GPU"):
            choose_devices(device, "openvino")
        with pytest.raises(Unavailable, match="uses no NVIDIA GPU; choose 'cpu' or 'auto'"):
            load_engine(bundle, "openvino", device)


def test_bfloat16_only_where_the_processor_has_it(publish: Publish) -> None:
    bundle = publish("masks")
    if HAS_BFLOAT16:
        assert load_engine(bundle, "openvino", "cpu", 1, "bf16").run(*batch(255)).scores.dtype == np.float32
    else:
        with pytest.raises(Unavailable, match="precision bf16 was asked for, but this processor does not"):
            load_engine(bundle, "openvino", "cpu", 1, "bf16")


@pytest.mark.parametrize("file", NETWORK_FILES)
@pytest.mark.parametrize("shape", [(256, 1312), (256, 1504), (1312, 256)])
def test_anchors_stand_where_they_belong_at_every_size(file: str, shape: tuple[int, int]) -> None:
    """1312 / 41 and 1504 / 47 are 32, but less by the reciprocals' nearest float32: anchors stood 31 pixels apart."""
    preprocessing = open_bundle(EMBEDDED).manifest.preprocessing
    sample = np.asarray(load_image(EMBEDDED.parents[2] / "samples" / "nuclei" / "small.png"))
    height, width = shape
    image = np.tile(sample, (-(-height // sample.shape[0]), -(-width // sample.shape[1]), 1))[:height, :width]
    engines = (OnnxEngine(EMBEDDED / file, "masks", "cpu", 2), OpenVinoEngine(EMBEDDED / file, "masks", "cpu", 2))
    theirs, ours = (Predictor(engine, preprocessing).predict([image], 0.5)[0] for engine in engines)
    distances = np.abs(ours.boxes[None] - theirs.boxes[:, None]).max(axis=2).min(axis=1)
    assert len(theirs) > 200
    assert (distances < 2).mean() > 0.95, f"{len(ours)} objects, where ONNX Runtime finds {len(theirs)}"


def _pooling(network: Any) -> list[Any]:
    return [node for node in network.get_ordered_ops() if node.get_type_name() == "ROIAlign"]


def test_in_bfloat16_features_are_converted_once_for_all_that_pool_them() -> None:
    network, quantized = (openvino.CORE.read_model((EMBEDDED / file).read_bytes()) for file in NETWORK_FILES)
    openvino.convert_pooled(network)
    openvino.convert_pooled(quantized)
    sources = [node.input(0).get_source_output().get_node() for node in _pooling(network)]
    assert {source.get_type_name() for source in sources} == {"Convert"}
    assert [source.get_element_type().to_string() for source in sources] == ["f32"] * 8
    assert len({source.get_name() for source in sources}) == 4, "boxes and masks pool the same four maps"
    for node in _pooling(quantized):
        assert node.input(0).get_source_output().get_node().get_type_name() != "Convert"


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not compute in bfloat16")
def test_in_bfloat16_features_are_pooled_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixel by pixel (acdb): laid out channel by channel (abcd) the pooling takes five times as long."""
    with monkeypatch.context() as patch:  # so it is needed, of this release too
        patch.setattr(openvino, "convert_pooled", lambda network: None)
        assert _layouts() == {"abcd"}
    monkeypatch.setattr(openvino, "_REWRITTEN", "not what was kept just now")
    assert _layouts() == {"acdb"}


def _layouts() -> set[str]:
    network = openvino._load(EMBEDDED / NETWORK_FILES[0], None, openvino._options(1, "bf16"))
    information = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    found = [one for one in information if one["layerType"].value == "ROIAlign"]
    assert len(found) == 8
    return {one["outputLayouts"].value for one in found}


def test_a_compiled_network_is_kept_for_exactly_this_network_and_these_options(
    publish: Publish, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish("masks").path / "model.onnx"

    def keys(**options: Any) -> set[str]:
        OpenVinoEngine(file, "masks", "cpu", **{"threads": 1, **options})
        return {entry.name for entry in cache.iterdir()}

    assert len(keys()) == 1
    assert len(keys()) == 1
    assert len(keys(threads=2)) == 2
    monkeypatch.setattr(openvino, "processor_identity", lambda: ("another",))
    assert len(keys()) == 3
    monkeypatch.setattr(openvino, "CAPABILITIES", (*openvino.CAPABILITIES, "more"))
    assert len(keys()) == 4
    monkeypatch.setattr(openvino.openvino, "get_version", lambda: "2099.1")
    assert len(keys()) == 5
    file.write_bytes(file.read_bytes() + b"\x32\x00")  # an empty doc_string: the same network in another file
    assert len(keys()) == 6


def test_off_linux_openvinos_own_word_for_the_processor_tells_what_was_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the system names no instructions: of Apple's processors it says "arm" of each."""
    monkeypatch.setattr(openvino, "processor_identity", lambda: ("arm64", "arm"))
    keys = set()
    for name in ("Apple M1", "Apple M4"):
        monkeypatch.setattr(openvino, "CORE", SimpleNamespace(get_property=lambda *_, name=name: name))
        keys.add(openvino._key(b"network", {"NUM_STREAMS": 1}))
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("version", "works"),
    [
        ("2026.4.1-22982-e213a147257-releases/2026/4", True),
        ("2027.0.0-1", True),
        ("2026.3.2-1", False),
        ("2024.6.0-1", False),
        ("custom_master_0123", True),
    ],
)
def test_older_releases_are_not_used(version: str, works: bool) -> None:
    with nullcontext() if works else pytest.raises(ImportError, match=r"is older than 2026\.4"):
        openvino._require_release(version)


def test_what_was_kept_is_loaded_and_what_cannot_be_is_compiled_anew(
    publish: Publish, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish("masks").path / "model.onnx"
    OpenVinoEngine(file, "masks", "cpu", 1)
    (key,) = (entry.name for entry in cache.iterdir())
    network = kept.find(key)
    assert network is not None

    with monkeypatch.context() as patch:  # a kept network needs no compiling
        patch.setattr(openvino.openvino.Core, "read_model", None)
        kept_engine = OpenVinoEngine(file, "masks", "cpu", 1)
    np.testing.assert_allclose(kept_engine.run(*batch(255)).scores, [1.0], rtol=1e-6)

    kept.keep(key, b"whole, but no network")
    with caplog.at_level(logging.WARNING):
        engine = OpenVinoEngine(file, "masks", "cpu", 1)
    np.testing.assert_allclose(engine.run(*batch(255)).scores, [1.0], rtol=1e-6)
    assert f"compiling {file} anew" in caplog.text
    assert len(kept.find(key) or b"") == len(network)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("ended_on", ["its thread", "another thread"])
def test_signals_are_handled_when_engines_have_come_and_gone(publish: Publish, ended_on: str) -> None:
    """As when versions are reloaded: a new engine is loaded before the old one is freed."""
    program = """
import gc, os, signal, sys, threading
from pathlib import Path
from model.runtime.engines.openvino import OpenVinoEngine

handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(None))
load = lambda: OpenVinoEngine(Path(sys.argv[1]), "masks", "cpu", 1)

def end(engines):
    engines.pop(0).close()
    gc.collect()

engines = [load()]
for _ in range(3):
    engines.append(load())
    if sys.argv[2] == "its thread":
        end(engines)
    else:
        thread = threading.Thread(target=end, args=(engines,))
        thread.start()
        thread.join()
    os.kill(os.getpid(), signal.SIGTERM)
end(engines)
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(len(handled) != 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, publish("masks").path / "model.onnx", ended_on], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_reported_to_anybody_and_nothing_said(publish: Publish) -> None:
    """OpenVINO's package reports its import to its maker by itself."""
    program = (
        "import sys; from pathlib import Path; from model.runtime.bundles.bundle import open_bundle;"
        "from model.runtime.engines.loading import load_engine;"
        "load_engine(open_bundle(Path(sys.argv[1])), 'openvino', 'cpu');"
        "sys.exit(' '.join(name for name in sys.modules if 'telemetry' in name or '.ovc' in name) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, publish("masks").path], capture_output=True, text=True, env={**os.environ}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
