"""What every engine does: run a network on whole batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model.architecture import Task, has_keypoints, has_masks
from model.runtime.detections import RawDetections
from model.runtime.images.picture import Size

EngineKind = Literal["onnx", "torchscript", "openvino", "cuda"]
DeviceChoice = str
"""Where an engine runs: "auto", "cpu", "cuda" or "cuda:N"; see `devices`."""

FloatPrecision = Literal["f32", "f16", "bf16"]
"""What a network computes in, wherever its file does not say INT8: float32, or one of the halves with float32 sums."""

MODEL_FILES: dict[EngineKind, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript.pt",
    "openvino": "model.onnx",
    "cuda": "model.onnx",
}
"""The bundle's file that each engine runs; `cuda` takes the weights alone, from `weights.pth` where there is one."""

INSTEAD: Final = "'cpu' or 'auto'"
"""Of a device that was named."""

INPUTS = ("images", "sizes", "score_threshold")
"""The network's inputs, in order."""


class EngineError(RuntimeError):
    """An engine that cannot be started: no such model file, device or library, or a file that is not such a model."""


class Unavailable(EngineError):
    """The device, the engine's library or the bundle's file for it is not here. Another choice of them may do."""


class OutOfMemory(EngineError):
    """A run that its device's memory could not hold. A smaller batch may fit; the engine can go on."""


class DeviceLost(EngineError):
    """A device that has failed, such that nothing in this process can use it any more. Another process may."""


class Engine(Protocol):
    """Runs the network on whole batches. `run` may be called from any thread, by several at once."""

    @property
    def name(self) -> str:
        """What runs the network, such as "onnx"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:N"."""

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """Detect.

        images: uint8 [B, H, W, C], each image in the top left corner.
        sizes: int64 [B, 2], the valid (height, width) of each in pixels; what lies outside does not count.
        score_threshold: float32 [B]; only detections that score strictly more are returned.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceLost: the device computes nothing more for this process.
        """

    def close(self) -> None:
        """Free the network. `run` must not be called any more."""


class Pending(Protocol):
    """A batch that a device was given."""

    def result(self) -> RawDetections:
        """Wait for it. To be called once. Raises as `Engine.run` does."""


@runtime_checkable
class OverlappingEngine(Engine, Protocol):
    """An engine that is given batches while it computes another. It answers them in their order."""

    @property
    def depth(self) -> int:
        """How many batches it can have at once."""

    @property
    def answered_again(self) -> Mapping[str, int]:
        """Images that were computed a second time, in float32, by the reason: "overflow" or "inexact"."""

    def prepare(self, every_bucket: bool) -> Size:
        """Do what costs time at first for the commonest buckets, or for all, rather than when they come. Returns the
        commonest as (height, width)."""

    def bucket(self, size: Size) -> Size:
        """(height, width) in which it computes an image of this padded size; images of one bucket share a batch."""

    def submit(
        self, images: Sequence[NDArray[np.uint8]], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> Pending:
        """Give it a batch: uint8 [H, W, C] of one bucket, the others as of `run`. From one thread at a time; results
        may be waited for on another. Raises as `run` does."""


def no_device(device: DeviceChoice, reason: str, instead: str = INSTEAD) -> Unavailable:
    """The error for a device that was named and that cannot be used for this reason; `instead`: what to choose."""
    return Unavailable(f"device {device!r} was asked for, but {reason}; choose {instead}")


def output_names(task: Task) -> tuple[str, ...]:
    """The network's outputs in order, for what the network predicts."""
    masks = ("masks",) if has_masks(task) else ()
    heatmaps = ("keypoint_heatmaps",) if has_keypoints(task) else ()
    return ("boxes", "scores", "labels", "image_index", *masks, *heatmaps)
