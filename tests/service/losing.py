"""The server, with an engine that loses its device by marked images: `python -m tests.service.losing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.runtime.detections import RawDetections

MARK: Final = 203
"""Red value of pixel 3 of the top row."""
SAID: Final = "cpu computes nothing more for this process: an illegal memory access was encountered"

if __name__ == "__main__":
    from model.runtime.engines.engine import DeviceLost
    from model.runtime.engines.onnx import OnnxEngine
    from service.__main__ import main
    from tests.service.holding import install

    install()
    run = OnnxEngine.run

    def lose(
        engine: OnnxEngine, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        if images.shape[2] > 3 and (images[:, 0, 3, 0] == MARK).any():
            raise DeviceLost(SAID)
        return run(engine, images, sizes, score_threshold)

    OnnxEngine.run = lose  # type: ignore[method-assign]  # what this module is for
    main()
