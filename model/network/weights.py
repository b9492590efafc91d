"""A bundle's weights as a torchvision state_dict."""

from __future__ import annotations

from io import BytesIO

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from model.network.build import Detector, build_unfilled
from model.runtime.bundles.bundle import Bundle, DamagedFile, MissingFile
from model.runtime.bundles.manifest import NETWORK_FILE

WEIGHTS_FILE = "weights.pth"
"""A bundle's plain torchvision state_dict; optional."""

COUNTER = "num_batches_tracked"
"""Batch norm's counter takes no part in inference, so that no exported network holds it."""


def load_network(bundle: Bundle) -> Detector:
    """The bundle's network in torchvision's own class, in eval mode.

    From `weights.pth`, or where the bundle has none from `model.onnx`, whose initializers carry the state_dict's names.
    Raises DamagedFile when they are not the manifest's architecture's, or something else than tensors, MissingFile when
    the bundle has them in INT8 alone.
    """
    model = build_unfilled(bundle.manifest.architecture)
    if WEIGHTS_FILE not in bundle.manifest.files and "f32" not in bundle.manifest.network_precisions:
        raise MissingFile(
            f"{bundle.path} has its weights in INT8 alone, from which those of the training cannot be read back; "
            f"export the model again with {WEIGHTS_FILE}, or with --int8 beside"
        )
    has_weights = WEIGHTS_FILE in bundle.manifest.files
    state = _tensors(bundle) if has_weights else _named_by_all(model, _initializers(bundle))
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise DamagedFile(f"the weights of {bundle.path} are not those of its architecture: {error}") from error
    return model.eval()


def _tensors(bundle: Bundle) -> dict[str, Tensor]:
    """Those of `weights.pth`; no code that it may hold is run."""
    content = BytesIO(bundle.read(WEIGHTS_FILE))
    try:
        return dict(torch.load(content, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DamagedFile(
            f"{bundle.file(WEIGHTS_FILE)} holds something else than a network's tensors, and no code of a file is run "
            f"here; export the model again"
        ) from error


def _named_by_all(model: Detector, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under each of their names: a C4 model's heads share a stage, which a network holds once."""
    wanted = model.state_dict(keep_vars=True)
    shared = {id(wanted[name]): value for name, value in state.items() if name in wanted}
    return {
        name: torch.zeros_like(tensor) if name.endswith(COUNTER) else shared[id(tensor)]
        for name, tensor in wanted.items()
        if name.endswith(COUNTER) or id(tensor) in shared
    }


def _initializers(bundle: Bundle) -> dict[str, Tensor]:
    network = onnx.load_from_string(bundle.read(NETWORK_FILE))
    return {
        initializer.name: torch.tensor(numpy_helper.to_array(initializer)).float()
        for initializer in network.graph.initializer
    }
