"""ONNX Runtime runs a real (tiny) network of each kind, from any thread, and says why it cannot start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.architecture import Task
from model.runtime.bundles.bundle import Bundle, ManifestDraft, publish_bundle
from model.runtime.engines.engine import EngineError, OutOfMemory, Unavailable
from model.runtime.engines.loading import load_engine
from model.runtime.engines.onnx import OnnxEngine
from tests.measured import measured
from tests.model.runtime.conftest import tiny_network
from tests.model.runtime.engines.feeds import assert_threads_share, batch
from tests.service.harness import picture
from tests.service.probe import SIDE, build_probe

Publish = Callable[[Task], Bundle]


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_runs_each_task(task: Task, publish: Publish) -> None:
    engine = load_engine(publish(task), device="cpu", threads=1)
    assert (engine.name, engine.device) == ("onnx", "cpu")
    raw = engine.run(*batch(255, 51, 102))
    np.testing.assert_allclose(raw.scores, [1.0, 0.4], rtol=1e-6)  # 51 / 255 is below the threshold
    assert raw.image_index.tolist() == [0, 2]
    assert raw.labels.tolist() == [1, 1]
    assert raw.boxes.tolist() == [[0, 0, 48, 64]] * 2
    assert [values.dtype for values in (raw.boxes, raw.scores, raw.labels)] == [np.float32, np.float32, np.int64]
    assert (raw.masks is not None) == (task == "masks")
    assert (raw.keypoint_heatmaps is not None) == (task == "keypoints")
    assert raw.of_image(1).scores.size == 0


def test_thresholds_are_of_each_image_and_strict(publish: Publish) -> None:
    engine = load_engine(publish("masks"), device="cpu", threads=1)
    images, sizes, _ = batch(255, 255, 255)
    raw = engine.run(images, sizes, np.array([0.5, 1.0, 0.999], np.float32))
    assert raw.image_index.tolist() == [0, 2]


def test_nothing_found(publish: Publish) -> None:
    raw = load_engine(publish("masks"), device="cpu", threads=1).run(*batch(0, 0))
    assert raw.boxes.shape == (0, 4)
    assert raw.masks is not None
    assert raw.masks.shape == (0, 28, 28)


@pytest.mark.parametrize("task", ["masks", "keypoints"])
def test_an_answer_that_is_kept_keeps_no_network(task: Task, publish: Publish) -> None:
    """ONNX Runtime's own arrays lie in the memory of their session, and all of that stays while one of them does."""
    raw = load_engine(publish(task), device="cpu", threads=1).run(*batch(255, 51))
    kept = [value for field in fields(raw) if (value := getattr(raw, field.name)) is not None]
    assert len(kept) == 5
    assert all(value.flags.owndata for value in kept)


def test_several_threads_share_an_engine(publish: Publish) -> None:
    assert_threads_share(load_engine(publish("masks"), device="cpu", threads=1))


def test_closed_engine(publish: Publish) -> None:
    engine = load_engine(publish("boxes"), device="cpu", threads=1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(*batch(255))


def test_wrong_task(publish: Publish) -> None:
    file = publish("boxes").path / "model.onnx"
    with pytest.raises(EngineError, match=r"outputs boxes, scores, labels, image_index; a model for masks has "):
        OnnxEngine(file, "masks", "cpu", 1)


def test_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a network")
    with pytest.raises(EngineError, match=r"model\.onnx cannot be loaded by ONNX Runtime \d"):
        OnnxEngine(file, "masks", "cpu", 1)
    with pytest.raises(EngineError, match="cannot be loaded"):
        OnnxEngine(tmp_path / "absent.onnx", "masks", "cpu", 1)


def test_missing_file_of_another_engine(publish: Publish) -> None:
    with pytest.raises(EngineError, match=r"has no model\.torchscript\.pt, which the torchscript engine runs"):
        load_engine(publish("masks"), "torchscript", "cpu")
    with pytest.raises(EngineError, match="there is no engine 'tensorrt'; choose one of onnx, torchscript"):
        load_engine(publish("boxes"), "tensorrt")  # type: ignore[arg-type]


def test_which_of_the_bundles_files_runs(staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    (staging / "model.int8.onnx").write_bytes(tiny_network("boxes"))
    told = draft.model_copy(update={"precisions": measured(f32=0.5, int8=0.5)})
    bundle = publish_bundle(staging, told, tmp_path / "repository", "tiny")
    assert load_engine(bundle, device="cpu", threads=1).run(*batch(255)).masks is not None
    with pytest.raises(EngineError, match=r"model\.int8\.onnx has .* outputs boxes, scores, labels, image_index; "):
        load_engine(bundle, device="cpu", threads=1, model_file="model.int8.onnx")
    with pytest.raises(Unavailable, match=r"has no model\.int4\.onnx, which the onnx engine runs"):
        load_engine(bundle, device="cpu", threads=1, model_file="model.int4.onnx")


def test_no_precision_but_its_own(publish: Publish) -> None:
    with pytest.raises(Unavailable, match="the onnx engine computes in f32, not in bf16; choose precision f32"):
        load_engine(publish("masks"), device="cpu", threads=1, precision="bf16")


def test_a_batch_that_exceeds_the_memory_is_told_from_other_failures_and_the_engine_goes_on(tmp_path: Path) -> None:
    build_probe(tmp_path / "model.onnx")
    engine = OnnxEngine(tmp_path / "model.onnx", "masks", "cpu", 1)

    def run(*images: NDArray[np.uint8]) -> int:
        sizes = np.array([[SIDE, SIDE]] * len(images))
        return len(engine.run(np.stack(images), sizes, np.full(len(images), 0.3, np.float32)).scores)

    hungry = picture(1, hungry=24)  # 16 MiB alone, 256 TiB for two
    alone = run(hungry)
    with pytest.raises(OutOfMemory, match="batch of 2 does not fit into the memory of cpu"):
        run(hungry, hungry)
    with pytest.raises(Exception, match="Gather") as caught:
        run(picture(fail=True))
    assert not isinstance(caught.value, OutOfMemory)
    assert run(hungry) == alone > 0


def test_onnx_runtime_is_told_to_report_to_nobody_before_it_is_loaded() -> None:
    program = (
        "import os, sys; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import model.runtime.engines.onnx"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu(publish: Publish) -> None:
    bundle = publish("masks")
    assert load_engine(bundle, device="auto", threads=1).device == "cpu"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(EngineError, match=rf"device '{device}' was asked for, but .*; choose 'cpu' or 'auto'"):
            load_engine(bundle, device=device)


def test_an_unknown_device_is_refused(publish: Publish) -> None:
    with pytest.raises(EngineError, match="there is no device 'gpu'; choose auto, cpu, cuda or cuda:N"):
        load_engine(publish("masks"), device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU")
def test_gpu_equals_cpu(publish: Publish) -> None:
    bundle = publish("masks")
    cpu, gpu = load_engine(bundle, device="cpu"), load_engine(bundle, device="cuda")
    assert gpu.device == "cuda"
    one, other = cpu.run(*batch(255, 51, 102)), gpu.run(*batch(255, 51, 102))
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-5)


def test_starting_says_nothing(publish: Publish) -> None:
    """ONNX Runtime warns on stderr of what a server's operator can do nothing about."""
    program = (
        "import sys; from pathlib import Path; from model.runtime.bundles.bundle import open_bundle;"
        "from model.runtime.engines.loading import load_engine; load_engine(open_bundle(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", program, publish("masks").path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
