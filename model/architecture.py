"""What a Mask R-CNN is made of, as data. No torch here: the serving runtime reads it from a bundle's manifest."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["boxes", "masks", "keypoints"]
Norm = Literal["frozen_batch_norm", "batch_norm", "group_norm"]
Backbone = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]

TORCHVISION_CLASS: dict[Task, str] = {"boxes": "FasterRCNN", "masks": "MaskRCNN", "keypoints": "KeypointRCNN"}


class ArchitectureConfig(BaseModel):
    """Everything needed to build the network; the defaults are torchvision's `maskrcnn_resnet50_fpn`.

    Sizes are in pixels of the resized input. `num_classes` counts the background, as torchvision does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task = Field("masks", description="boxes: FasterRCNN, masks: MaskRCNN, keypoints: KeypointRCNN")
    num_classes: int = Field(91, ge=2, description="classes including the background")
    num_keypoints: int = Field(17, ge=1, description="keypoints of each object (keypoint models)")

    backbone: Backbone = Field("resnet50", description="torchvision classification network under the FPN")
    norm: Norm = Field("frozen_batch_norm", description="normalization layers of the backbone")
    norm_eps: float = Field(1e-5, ge=0, description="epsilon of the backbone's and FPN's normalization")
    fpn_channels: int = Field(256, ge=1, description="channels of every FPN level")
    fpn_norm: bool = Field(False, description="normalize inside the FPN too (with the backbone's norm)")

    anchor_sizes: tuple[tuple[int, ...], ...] = Field(
        ((32,), (64,), (128,), (256,), (512,)), description="anchor sides, a group for each feature level"
    )
    anchor_aspect_ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), description="anchor height / width")
    rpn_conv_depth: int = Field(1, ge=1, description="3x3 convolutions in the RPN head")
    rpn_pre_nms_top_n_train: int = Field(2000, ge=1, description="proposals a level kept before NMS, training")
    rpn_pre_nms_top_n_test: int = Field(1000, ge=1, description="proposals a level kept before NMS, inference")
    rpn_post_nms_top_n_train: int = Field(2000, ge=1, description="proposals an image after NMS, training")
    rpn_post_nms_top_n_test: int = Field(1000, ge=1, description="proposals an image after NMS, inference")
    rpn_nms_threshold: float = Field(0.7, gt=0, le=1, description="IoU above which the weaker proposal goes")
    rpn_score_threshold: float = Field(0.0, ge=0, lt=1, description="proposals below this objectness are dropped")

    box_head: Literal["mlp", "conv"] = Field("mlp", description="mlp: two fully connected layers; conv: 4 conv + 1 fc")
    box_head_channels: int = Field(1024, ge=1, description="width of the box head's fully connected layers")
    box_head_convs: tuple[int, ...] = Field((256, 256, 256, 256), description="channels of the conv box head")
    box_batch_size_per_image: int = Field(512, ge=1, description="RoIs sampled an image in training")
    box_positive_fraction: float = Field(0.25, gt=0, le=1, description="share of them that are positive")
    box_score_threshold: float = Field(0.05, ge=0, lt=1, description="lowest score of a detection")
    box_nms_threshold: float = Field(0.5, gt=0, le=1, description="IoU above which the weaker detection goes")
    detections_per_image: int = Field(100, ge=1, description="most detections an image")

    mask_head_convs: tuple[int, ...] = Field((256, 256, 256, 256), description="channels of the mask head")
    mask_head_norm: bool = Field(False, description="batch norm in the mask head")
    mask_predictor_channels: int = Field(256, ge=1, description="channels of the mask deconvolution")
    keypoint_head_convs: tuple[int, ...] = Field((512,) * 8, description="channels of the keypoint head")

    min_size: int = Field(800, ge=1, description="shorter side of the network input")
    max_size: int = Field(1333, ge=1, description="longest side of the network input")
    allow_downscale: bool = Field(True, description="shrink images whose shorter side exceeds min_size")
    image_mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="RGB mean, of 0..1")
    image_std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="RGB deviation, of 0..1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = 3 if self.backbone.startswith("mobilenet") else 5
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} groups, but {self.backbone} with FPN has {levels} feature "
                f"levels; give one group of sizes for each"
            )
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) is smaller than min_size ({self.min_size})")
        return self

    @property
    def torchvision_class(self) -> str:
        """Name of the torchvision class that `weights.pth` loads into."""
        return TORCHVISION_CLASS[self.task]


PRESETS: dict[str, ArchitectureConfig] = {
    "fasterrcnn_resnet50_fpn": ArchitectureConfig(task="boxes"),
    "fasterrcnn_resnet50_fpn_v2": ArchitectureConfig(
        task="boxes", norm="batch_norm", fpn_norm=True, rpn_conv_depth=2, box_head="conv"
    ),
    "maskrcnn_resnet50_fpn": ArchitectureConfig(task="masks"),
    "maskrcnn_resnet50_fpn_v2": ArchitectureConfig(
        task="masks", norm="batch_norm", fpn_norm=True, rpn_conv_depth=2, box_head="conv", mask_head_norm=True
    ),
    "keypointrcnn_resnet50_fpn": ArchitectureConfig(task="keypoints", num_classes=2),
}
"""torchvision's published detection models, by torchvision's names."""
