"""The server, with an engine that keeps marked images for as long as a test wants: `python -m tests.service.holding`.

Everything is the server's own. A test that needs a busy engine would otherwise hope that an image takes long enough.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.runtime.detections import RawDetections

FOLDER: Final = "TEST_HOLDING"
"""Environment variable: the folder of `hold`, which a test makes and removes, and of a file for each run that waits."""
HOLD: Final = "hold"
PASS: Final = "pass"
"""A file in that folder that lets one run go on, which removes it."""
MARK: Final = 201
"""Red value of pixel 3 of the top row."""


def install() -> None:
    """From here on a run of the engine with a marked image waits until there is no `hold`."""
    from model.runtime.engines.onnx import OnnxEngine

    folder, run = Path(os.environ[FOLDER]), OnnxEngine.run

    def held(
        engine: OnnxEngine, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        if images.shape[2] > 3 and (images[:, 0, 3, 0] == MARK).any() and (folder / HOLD).exists():
            with tempfile.NamedTemporaryFile(dir=folder):
                while (folder / HOLD).exists() and not _may_pass(folder):
                    time.sleep(0.002)
        return run(engine, images, sizes, score_threshold)

    OnnxEngine.run = held  # type: ignore[method-assign]  # what this module is for


def _may_pass(folder: Path) -> bool:
    try:
        (folder / PASS).unlink()
    except FileNotFoundError:
        return False
    return True


if __name__ == "__main__":
    from service.__main__ import main

    install()
    main()
