"""Weights of a bundle, from weights.pth and from the network itself."""

import pytest
import torch

from model.network.weights import load_network
from model.runtime.bundles.bundle import DamagedFile, open_bundle
from model.runtime.bundles.repository import EMBEDDED, Repository


def test_embedded_network_loads_without_a_weights_file() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    assert set(bundle.manifest.files) == {"model.onnx", "model.int8.onnx"}
    model = load_network(bundle)
    assert not model.training
    # Trained, not freshly initialized: batch norm has seen images.
    assert float(model.backbone.body.bn1.running_mean.abs().max()) > 0
    with torch.no_grad():
        [answer] = model([torch.zeros(3, 64, 64)])
    assert set(answer) == {"boxes", "labels", "scores", "masks"}


def test_weights_of_another_architecture_are_refused() -> None:
    bundle = Repository(EMBEDDED).latest("nuclei")
    architecture = bundle.manifest.architecture.model_copy(update={"fpn_channels": 64})
    manifest = bundle.manifest.model_copy(update={"architecture": architecture})
    with pytest.raises(DamagedFile, match="not those of its architecture"):
        load_network(type(bundle)(open_bundle(bundle.path).path, manifest))
