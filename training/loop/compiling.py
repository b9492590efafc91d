"""torch.compile for the backbone of a detector."""

from __future__ import annotations

import os
import shutil

from model.network.build import Detector


def compile_backbone(model: Detector, *, same_size: bool) -> None:
    """Compiles the backbone in place, when it is first called; names in the state_dict stay as they are.

    `same_size`: all batches that are learned from have one size, which it is compiled for. Else it is for any size at
    once: torch would first compile for several, one after the other.

    The rest of a detector works on numbers of boxes that differ from image to image, and stays as it is. Raises
    ValueError where there is no C++ compiler, which torch.compile calls on a CPU and on a GPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compile needs a C++ compiler, and {compiler} is not on the PATH: install one (Debian: apt install g++), "
            f"name it in CXX, or leave out --compile"
        )
    model.backbone.compile(dynamic=None if same_size else True)
