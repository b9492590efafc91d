"""What keypoints are called, and what their names say."""

from __future__ import annotations

from training.data.annotations.dataset import Dataset


def keypoint_names(data: Dataset) -> tuple[str, ...]:
    """Names of the K keypoints, "keypoint 1" and so on where the dataset has none; empty without keypoints."""
    unnamed = tuple(f"keypoint {number + 1}" for number in range(data.num_keypoints))
    return next((category.keypoints for category in data.categories if category.keypoints), unnamed)


def flip_pairs(data: Dataset) -> tuple[tuple[int, int], ...]:
    """Indices of keypoints called left_X and right_X, which change places in a mirror image."""
    index = {name: position for position, name in enumerate(keypoint_names(data))}
    pairs = ((position, index.get(name.replace("left", "right"))) for name, position in index.items() if "left" in name)
    return tuple((left, right) for left, right in pairs if right is not None)
