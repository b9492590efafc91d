"""What the tests of starting points share: a small network, its checkpoint, and a run that starts from something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.architecture import ArchitectureConfig
from model.network.build import Detector, build_model
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import TrainConfig
from training.starting.starting_point import StartReport, load_starting_point

SMALL = ArchitectureConfig(
    backbone="resnet18",
    num_classes=4,
    num_keypoints=3,
    fpn_channels=16,
    box_head_channels=16,
    box_head_convs=(16,),
    mask_head_convs=(16,),
    mask_predictor_channels=16,
    keypoint_head_convs=(16,),
)
C4 = SMALL.model_copy(update={"features": "c4", "anchor_sizes": ((32, 64),)})
THEIRS = ("person", "Traffic_Light", "motor cycle")
POINTS = ("nose", "left_eye", "right_eye")
SCORES = "roi_heads.box_predictor.cls_score"
BOXES = "roi_heads.box_predictor.bbox_pred"
MASKS = "roi_heads.mask_predictor.mask_fcn_logits"
HEATMAPS = "roi_heads.keypoint_predictor.kps_score_lowres"


def architecture(**changes: object) -> ArchitectureConfig:
    return ArchitectureConfig.model_validate({**SMALL.model_dump(), **changes})


def trained(config: ArchitectureConfig = SMALL, seed: int = 1) -> dict[str, Tensor]:
    """A network whose tensors are all different from a fresh one's."""
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in build_model(config).state_dict().items()
    }


def write_checkpoint(
    path: Path,
    config: ArchitectureConfig = SMALL,
    class_names: tuple[str, ...] = THEIRS,
    keypoint_names: tuple[str, ...] = (),
    ema: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """A checkpoint of ours at `path`; returns its weights."""
    state = trained(config)
    save_checkpoint(
        Checkpoint(
            iteration=7,
            config=TrainConfig(architecture=config).model_dump(mode="json"),
            class_names=class_names,
            keypoint_names=keypoint_names,
            model=state,
            optimizer={},
            scheduler={},
            scaler={},
            best=0.5,
            ema=ema,
        ),
        path,
    )
    return state


def load(
    start_from: Path | str,
    class_names: tuple[str, ...] = THEIRS,
    config: ArchitectureConfig = SMALL,
    keypoint_names: tuple[str, ...] = (),
    class_map: Mapping[str, str] | None = None,
) -> tuple[Detector, dict[str, Tensor], StartReport]:
    """The started model, what it was before, and the report."""
    config = config.model_copy(update={"num_classes": len(class_names) + 1})
    model = build_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = TrainConfig(start_from=str(start_from), class_map=dict(class_map or {}), architecture=config)
    return model, before, load_starting_point(model, run, class_names, keypoint_names)


def assert_rows(
    model: Detector, before: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rows: Mapping[int, int | None]
) -> None:
    """`rows`: label of the run -> label of the weights that its parts came from, None: it stayed as it was."""
    state = model.state_dict()
    for layer, size in ((SCORES, 1), (BOXES, 4), (MASKS, 1)):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            for new, old in rows.items():
                source = before[name] if old is None else theirs[name]
                row = new if old is None else old
                actual = state[name][new * size : (new + 1) * size]
                assert torch.equal(actual, source[row * size : (row + 1) * size]), (name, new)
