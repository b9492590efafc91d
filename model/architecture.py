"""What a Mask R-CNN is made of, as data. No torch here: the serving runtime reads it from a bundle's manifest."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.runtime.images.channels import MOST_CHANNELS, RGB_CHANNELS, is_rgb

Task = Literal["boxes", "masks", "keypoints", "masks_keypoints"]
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

TORCHVISION_CLASS: dict[Task, str] = {
    "boxes": "FasterRCNN",
    "masks": "MaskRCNN",
    "keypoints": "KeypointRCNN",
    "masks_keypoints": "KeypointRCNN",
}


GRAY_MEAN, GRAY_STD = 0.449, 0.226
"""Of a channel of which nothing is known: the average of ImageNet's red, green and blue."""


def has_masks(task: Task) -> bool:
    """Whether models of this task predict masks."""
    return "masks" in task


def has_keypoints(task: Task) -> bool:
    """Whether models of this task predict keypoints."""
    return "keypoints" in task


class ArchitectureConfig(BaseModel):
    """Everything needed to build the network; the defaults are torchvision's `maskrcnn_resnet50_fpn`.

    Sizes are in pixels of the resized input. `num_classes` counts the background, as torchvision does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task = Field(
        "masks",
        description="boxes: FasterRCNN, masks: MaskRCNN, keypoints: KeypointRCNN, masks_keypoints: KeypointRCNN with a "
        "mask head beside it",
    )
    num_classes: int = Field(91, ge=2, description="classes including the background")
    num_keypoints: int = Field(17, ge=1, description="keypoints of each object (keypoint models)")

    channels: int = Field(
        RGB_CHANNELS,
        ge=1,
        le=MOST_CHANNELS,
        exclude_if=is_rgb,
        description="channels of the images; of other than 3 all that a file has, which must be as many",
    )
    backbone: Backbone = Field("resnet50", description="torchvision classification network")
    features: Literal["fpn", "c4"] = Field(
        "fpn", description="fpn: feature pyramid; c4: the fourth stage's map alone, with the fifth stage as box head"
    )
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

    roi_pooling: Literal["align", "pool"] = Field("align", description="align: RoIAlign; pool: RoIPool, as Fast R-CNN")
    box_head: Literal["mlp", "conv"] = Field("mlp", description="mlp: two fully connected layers; conv: 4 conv + 1 fc")
    box_head_channels: int = Field(1024, ge=1, description="width of the box head's fully connected layers")
    box_head_convs: tuple[int, ...] = Field((256, 256, 256, 256), description="channels of the conv box head")
    box_batch_size_per_image: int = Field(512, ge=1, description="RoIs sampled an image in training")
    box_positive_fraction: float = Field(0.25, gt=0, le=1, description="share of them that are positive")
    box_score_threshold: float = Field(0.05, ge=0, lt=1, description="lowest score of a detection")
    box_nms_threshold: float = Field(0.5, gt=0, le=1, description="IoU above which the weaker detection goes")
    detections_per_image: int = Field(100, ge=1, description="most detections an image")

    mask_loss: Literal["sigmoid", "softmax"] = Field(
        "sigmoid", description="sigmoid: a binary mask for each class; softmax: classes compete for each pixel"
    )
    mask_classes: Literal["specific", "agnostic"] = Field(
        "specific", description="specific: a mask for each class; agnostic: one for all of them"
    )
    mask_head: Literal["fcn", "mlp"] = Field("fcn", description="fcn: convolutions; mlp: two fully connected layers")
    mask_head_channels: int = Field(1024, ge=1, description="width of the mlp mask head's layers")
    mask_head_convs: tuple[int, ...] = Field((256, 256, 256, 256), description="channels of the mask head")
    mask_head_norm: bool = Field(False, description="batch norm in the mask head")
    mask_predictor_channels: int = Field(256, ge=1, description="channels of the mask deconvolution")
    keypoint_head_convs: tuple[int, ...] = Field((512,) * 8, description="channels of the keypoint head")

    min_size: int = Field(800, ge=1, description="shorter side of the network input")
    max_size: int = Field(1333, ge=1, description="longest side of the network input")
    allow_downscale: bool = Field(True, description="shrink images whose shorter side exceeds min_size")
    image_mean: tuple[float, ...] = Field(
        (0.485, 0.456, 0.406), description="mean of each channel, of 0..1; default ImageNet's, 0.449 for other than RGB"
    )
    image_std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.229, 0.224, 0.225), description="deviation of each, of 0..1; default ImageNet's, 0.226 for other than RGB"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Means and deviations where there are other channels than red, green and blue."""
        said = str(values.get("channels", RGB_CHANNELS)) if isinstance(values, dict) else ""  # flags are texts
        channels = int(said) if said.isdecimal() and len(said) <= 2 else RGB_CHANNELS
        if channels == RGB_CHANNELS:
            return values
        return {"image_mean": (GRAY_MEAN,) * channels, "image_std": (GRAY_STD,) * channels, **values}

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = 1 if self.features == "c4" else 3 if self.backbone.startswith("mobilenet") else 5
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} groups, but {self.backbone} with {self.features.upper()} "
                f"has {levels} feature levels; give one group of sizes for each"
            )
        for name, given in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            if len(given) != self.channels:
                raise ValueError(
                    f"{name} has {len(given)} values, but the network takes {self.channels} channels: give one for "
                    f"each, or leave it out"
                )
        self._check_variants()
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) is smaller than min_size ({self.min_size})")
        return self

    def _check_variants(self) -> None:
        """What the paper's variants rule out among each other."""
        if self.features == "c4":
            if self.backbone.startswith("mobilenet"):
                raise ValueError("features c4 needs a ResNet or ResNeXt: a MobileNet has no fifth stage to be the head")
            if self.has_keypoints:
                raise ValueError("keypoints need features fpn: the paper has no keypoint head on C4")
            if self.mask_head == "mlp":
                raise ValueError("mask_head mlp needs features fpn: on C4 the fifth stage is the mask head")
        if self.has_masks:
            if self.mask_loss == "softmax" and self.mask_classes == "agnostic":
                raise ValueError("mask_loss softmax lets classes compete, mask_classes agnostic has one: choose one")
            if self.mask_head_norm and (self.mask_head == "mlp" or self.features == "c4"):
                raise ValueError("mask_head_norm is for mask_head fcn with features fpn")

    @property
    def has_masks(self) -> bool:
        """Whether the model predicts masks."""
        return has_masks(self.task)

    @property
    def has_keypoints(self) -> bool:
        """Whether the model predicts keypoints."""
        return has_keypoints(self.task)

    @property
    def torchvision_class(self) -> str:
        """Name of the torchvision class that `weights.pth` loads into.

        It takes the weights of `masks_keypoints` once its `roi_heads` have been given a mask head.
        """
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
