"""The values that flow from an engine to an answer.

`RawDetections` is what an engine returns for a whole batch, in pixels of the padded network input. `Detections` is one
image's answer, in pixels of the image as the user sees it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RLE:
    """One binary mask in COCO's compressed run-length encoding.

    `size` is (height, width) in pixels. `counts` is the ASCII string that pycocotools reads and writes: column-major
    runs, background first, difference-coded against the run two before from the fourth run on.
    """

    size: tuple[int, int]
    counts: bytes


@dataclass(frozen=True, slots=True)
class RawDetections:
    """Detections of a whole batch, flat: image 0's first, falling score inside each image.

    boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels of the padded input.
    scores: float32 [N] in (0, 1].
    labels: int64 [N], 1..num_classes - 1 (0 is background and never appears).
    image_index: int64 [N], the batch position that each detection belongs to, never falling.
    masks: float32 [N, M, M] foreground probabilities inside the box, or None when the model has no mask head.
    keypoint_heatmaps: float32 [N, K, S, S] logits inside the box, or None when the model has no keypoint head.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_index: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None
    keypoint_heatmaps: NDArray[np.float32] | None = None

    def of_image(self, index: int) -> RawDetections:
        """The rows of batch position `index`, as views."""
        # Not numpy's search: it gives the GIL up for these two numbers, and must wait until it gets it back.
        rows = slice(bisect_left(self.image_index, index), bisect_left(self.image_index, index + 1))
        return RawDetections(
            self.boxes[rows],
            self.scores[rows],
            self.labels[rows],
            self.image_index[rows],
            None if self.masks is None else self.masks[rows],
            None if self.keypoint_heatmaps is None else self.keypoint_heatmaps[rows],
        )


@dataclass(frozen=True, slots=True)
class Detections:
    """One image's detections in falling score.

    boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels of the original image, clipped to it.
    scores: float32 [N]; labels: int64 [N], 1..num_classes - 1.
    masks: N masks at the original image's size, or None when the model has no mask head or none were asked for.
    keypoints: float32 [N, K, 3] as (x, y, logit) in pixels of the original image, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: list[RLE] | None = None
    keypoints: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)
