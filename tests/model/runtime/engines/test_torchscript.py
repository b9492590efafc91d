"""TorchScript runs a network behind the same interface and gives the same kind of answer."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from model.runtime.bundles.bundle import ManifestDraft, publish_bundle
from model.runtime.engines import torchscript
from model.runtime.engines.engine import EngineError
from model.runtime.engines.loading import load_engine
from model.runtime.engines.torchscript import TorchScriptEngine


class Brightness(torch.nn.Module):
    """One object an image, scored by its brightness."""

    def forward(
        self, images: torch.Tensor, sizes: torch.Tensor, score_threshold: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        brightness = images.to(torch.float32).mean(dim=[1, 2, 3]) / 255
        found = torch.nonzero(brightness > score_threshold).flatten()
        boxes = torch.cat([sizes, sizes], dim=1).to(torch.float32)[found]
        masks = torch.full([found.shape[0], 28, 28], 0.75)
        return boxes, brightness[found], torch.ones_like(found), found, masks


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "model.torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Brightness()).save(file)  # type: ignore[no-untyped-call]
    return file


def test_runs(script: Path, staging: Path, draft: ManifestDraft, tmp_path: Path) -> None:
    script.rename(staging / script.name)
    bundle = publish_bundle(staging, draft, tmp_path / "repository", "tiny")
    engine = load_engine(bundle, "torchscript", "cpu", threads=torch.get_num_threads())
    assert (engine.name, engine.device) == ("torchscript", "cpu")
    images = np.stack([np.full((32, 64, 3), value, np.uint8) for value in (255, 51, 102)])
    images.flags.writeable = False  # as a decoded image may be
    raw = engine.run(images, np.array([[32, 64]] * 3), np.full(3, 0.3, np.float32))
    np.testing.assert_allclose(raw.scores, [1.0, 0.4], rtol=1e-6)
    assert raw.image_index.tolist() == [0, 2]
    assert raw.labels.dtype == np.int64
    assert raw.boxes.tolist() == [[32, 64, 32, 64]] * 2
    assert raw.masks is not None
    assert raw.masks.shape == (2, 28, 28)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(images, np.array([[32, 64]] * 3), np.full(3, 0.3, np.float32))


def test_torch_gets_a_thread_for_each_core_but_in_tests(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    TorchScriptEngine(script, "masks", "cpu", None)
    assert torch.get_num_threads() == before, "see tests/conftest.py"
    monkeypatch.setattr(torchscript, "usable_cores", lambda: before + 1)
    TorchScriptEngine(script, "masks", "cpu", None)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "model.torchscript.pt"
    file.write_bytes(b"not a network")
    with pytest.raises(EngineError, match=r"model\.torchscript\.pt cannot be loaded by torch \d"):
        TorchScriptEngine(file, "masks", "cpu", torch.get_num_threads())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu(script: Path) -> None:
    with pytest.raises(EngineError, match="torch sees no GPU; choose 'cpu' or 'auto'"):
        TorchScriptEngine(script, "masks", "cuda", torch.get_num_threads())
    assert TorchScriptEngine(script, "masks", "auto", torch.get_num_threads()).device == "cpu"
