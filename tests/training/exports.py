"""Networks that several tests export: the exporter takes ten times as long as all else that is done to a tiny run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import FasterRCNN

from tests.once import once

ExportOnnx = Callable[..., None]


def exporting_once(factory: pytest.TempPathFactory, export: ExportOnnx) -> ExportOnnx:
    """`export`, which makes the file of a network that is the same in every attribute and weight only once."""

    def export_or_copy(model: FasterRCNN, path: Path, *, half_storage: bool = False) -> None:
        pickled = BytesIO()
        torch.save(model, pickled)
        name = hashlib.sha256(pickled.getbuffer()).hexdigest()[:20] + ("-half" if half_storage else "")
        made = once(
            factory, f"exported-{name}", lambda folder: export(model, folder / "x.onnx", half_storage=half_storage)
        )
        shutil.copy(made / "x.onnx", path)

    return export_or_copy
