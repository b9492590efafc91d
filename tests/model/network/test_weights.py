"""Weights of a bundle, from weights.pth and from the network itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx import ModelProto

from model.network.weights import load_network
from model.runtime.bundles.bundle import DamagedFile, ManifestDraft, open_bundle, publish_bundle
from model.runtime.bundles.repository import EMBEDDED, Repository
from tests.planted import Planted


def test_embedded_network_loads_without_a_weights_file() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    assert set(bundle.manifest.files) == {"model.onnx", "model.int8.onnx", "references.npz"}
    model = load_network(bundle)
    assert not model.training
    # Trained, not freshly initialized: batch norm has seen images.
    assert float(model.backbone.body.bn1.running_mean.abs().max()) > 0
    # An exported network has no counters.
    counters = [value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert [int(counter) for counter in counters] == [0] * 20
    with torch.no_grad():
        [answer] = model([torch.zeros(3, 64, 64)])
    assert set(answer) == {"boxes", "labels", "scores", "masks"}


def test_weights_of_another_architecture_are_refused() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    architecture = bundle.manifest.architecture.model_copy(update={"fpn_channels": 64})
    manifest = bundle.manifest.model_copy(update={"architecture": architecture})
    with pytest.raises(DamagedFile, match="not those of its architecture"):
        load_network(type(bundle)(open_bundle(bundle.path).path, manifest))


@pytest.mark.parametrize(
    "kept", [lambda planted: {"x": planted}, lambda planted: planted, lambda planted: torch.zeros(1)]
)
def test_only_tensors_are_made_of_weights_and_no_code_is_run(kept: Callable[[object], object], tmp_path: Path) -> None:
    known = Repository(EMBEDDED).latest("nuclei").manifest
    draft = ManifestDraft(**{name: getattr(known, name) for name in ManifestDraft.model_fields if name != "precisions"})
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "model.onnx").write_bytes(ModelProto(ir_version=8).SerializeToString())
    torch.save(kept(Planted(tmp_path / "ran")), tmp_path / "staging" / "weights.pth")
    bundle = publish_bundle(tmp_path / "staging", draft, tmp_path / "models", "planted")
    with pytest.raises(DamagedFile, match="holds something else than a network's tensors, and no code"):
        load_network(bundle)
    assert not (tmp_path / "ran").exists()
