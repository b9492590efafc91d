"""What a training run is, as data: a recipe file, flags, and the `config.yaml` that every run saves are all this."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from model.architecture import ArchitectureConfig
from model.console.arguments import EMPTY, did_you_mean
from model.runtime.bundles.manifest import ModelName
from model.runtime.bundles.writing import replace_file
from model.runtime.images.values.intensity import Intensity

RECIPES = Path(__file__).parent / "recipes"


NAME_RULE = "give small letters, digits, '.', '_' and '-', at most 100, a letter or digit first"
"""What a ModelName is, in words."""

PublishIf = Literal["always", "better"]

ReferenceImages = Literal["data", "generated", "none"]
"""Which images a bundle holds with their answers: some of the data where there are any, generated ones, or none."""


def _given(value: object) -> object:
    """Path("") would be the current folder, and an unset variable of a shell is an empty word."""
    if value == "":
        raise ValueError(EMPTY)
    return value


GivenPath = Annotated[Path, BeforeValidator(_given)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AugmentConfig(_Group):
    """What happens to a training image. Sizes are in pixels of the network input."""

    crop: int | None = Field(None, ge=32, description="train on square windows of this side; none: whole images")
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="random scale of a window, log-uniform in this range", examples=[(0.5, 2.0)]
    )
    crop_around: float = Field(
        0.0, ge=0, le=1, description="share of windows that hold the middle of a randomly chosen object"
    )
    jitter: tuple[float, float] | None = Field(
        None,
        description="large-scale jitter, instead of `scale`: a window's scale is what fits the image into it, times a "
        "factor drawn from this range",
        examples=[(0.1, 2.0)],
    )
    copy_paste: float = Field(
        0.0, ge=0, le=1, description="probability of pasting objects of another image (tasks with masks)"
    )
    min_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="shorter sides drawn for whole images; empty: the served size",
        examples=[(640, 672, 704, 736, 768, 800)],
    )
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability of an up-down flip")
    transpose: float = Field(0.0, ge=0, le=1, description="probability of swapping x and y (with flips: all rotations)")
    invert: float = Field(0.0, ge=0, le=1, description="probability of inverting the intensities")
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of dropping the colour")
    brightness: float = Field(0.0, ge=0, lt=1, description="brightness factor drawn from 1 - this to 1 + this")
    contrast: float = Field(0.0, ge=0, lt=1, description="contrast factor drawn from 1 - this to 1 + this")
    saturation: float = Field(0.0, ge=0, lt=1, description="saturation factor drawn from 1 - this to 1 + this")
    hue: float = Field(0.0, ge=0, le=0.5, description="hue shift drawn from -this to this, of a full turn")
    blur: float = Field(0.0, ge=0, description="deviation of a Gaussian blur drawn from 0 to this, in pixels")
    noise: float = Field(0.0, ge=0, le=1, description="deviation of Gaussian noise drawn from 0 to this, of 0..1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, given in (("scale", self.scale), ("jitter", self.jitter)):
            if given is not None and not 0 < given[0] <= given[1]:
                raise ValueError(f"augment.{name} must be two rising positive numbers, got {given[0]} and {given[1]}")
        scaled = self.scale != (1.0, 1.0)
        if self.crop is None:
            needy = {"scale": scaled, "jitter": self.jitter is not None, "crop_around": self.crop_around > 0}
            for name in (name for name, used in needy.items() if used):
                raise ValueError(f"augment.{name} is about windows: give their side, augment.crop, or leave it out")
        elif self.min_sizes:
            raise ValueError("augment.min_sizes is about whole images, augment.crop about windows: give one of them")
        if self.jitter is not None and scaled:
            raise ValueError("augment.jitter draws the scale of a window in place of augment.scale: give one of them")
        return self


class OptimizerConfig(_Group):
    """Gradient descent. `rate` is the peak learning rate."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    rate: float = Field(0.02, gt=0, description="peak learning rate")
    reference_batch: int | None = Field(
        None, ge=1, description="images a step that `rate` is meant for; other step sizes scale it linearly"
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate for each stage away from the heads")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum, or AdamW's first beta")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay, not applied to biases and normalization")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; none: no clipping")


class ScheduleConfig(_Group):
    """How long, and how the learning rate moves. Everything is counted in iterations."""

    iterations: int = Field(90_000, ge=1, description="optimizer steps")
    warmup: int = Field(500, ge=0, description="iterations of linear warm-up")
    warmup_factor: float = Field(0.001, gt=0, le=1, description="share of the rate that warm-up starts from")
    decay: Literal["step", "cosine"] = Field("step", description="step: times gamma at each milestone; cosine: to zero")
    milestones: tuple[int, ...] = Field((60_000, 80_000), description="iterations at which the rate falls (step)")
    gamma: float = Field(0.1, gt=0, lt=1, description="factor at each milestone (step)")


class ValidationConfig(_Group):
    """What is measured on the validation split, and what is kept for people to look at."""

    every: int = Field(0, ge=0, description="iterations between evaluations; 0: only at the end")
    max_detections: int = Field(100, ge=1, description="detections an image that COCO AP counts")
    samples: int = Field(4, ge=0, description="validation images drawn with their predictions")
    loss: bool = Field(False, description="compute the training losses on the validation split too")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better AP")


class TrainConfig(_Group):
    """One training run. Every field is a key of a recipe and a flag."""

    name: ModelName = Field("model", description="name of the published model")
    data: GivenPath | None = Field(
        None, description="dataset folder in any format of docs/formats.md; none: generated shapes or figures"
    )
    annotations: tuple[GivenPath, ...] = Field(
        (),
        description="files of annotations (COCO JSON, VIA, YOLO's YAML), not a folder; told apart by train and val in "
        "their names",
        examples=[(Path("train.json"), Path("val.json"))],
    )
    images: GivenPath | None = Field(None, description="folder of the images that annotations name; none: beside them")
    classes: tuple[str, ...] = Field(
        (), description="train on these classes alone, by (new) name; empty: all", examples=[("person", "bike")]
    )
    rename: dict[str, str] = Field(
        {}, description="classes called otherwise, old: new; equal new names merge", examples=[{"bicycle": "bike"}]
    )
    orientation: Literal["auto", "stored", "seen"] = Field(
        "auto",
        description="whether COCO's annotations are of pictures as stored or as seen, with EXIF orientation, where "
        "sizes do not tell; auto: as the other images tell",
    )
    mask_objects: Literal["auto", "values", "pieces"] = Field(
        "auto",
        description="what an object is in masks of one class: the pixels of one value, or each connected piece of "
        "them; auto: the values, and masks that show foreground alone are refused",
    )
    class_attribute: str | None = Field(
        None, description="the attribute of VIA's regions that names their class, where they have several"
    )
    val: float | None = Field(
        None, gt=0, lt=1, description="share of the images to hold out where there is no validation split"
    )
    on_broken: Literal["stop", "skip"] = Field("stop", description="broken records: stop before training, or skip them")
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that load images, of each training process; 0 loads in the training process; none: one "
        "on a CPU, and on GPUs their share of the cores, up to 8",
    )
    license: str = Field("", description="license of the data, copied into the manifest")
    output: GivenPath | None = Field(None, description="the run's folder; default runs/NAME")
    repository: GivenPath | None = Field(None, description="model repository to publish into; default OUTPUT/models")
    resume: Literal["auto", "never"] = Field(
        "auto", description="auto: go on from OUTPUT's last checkpoint if there is one"
    )
    seed: int = Field(0, ge=0, description="seed of weights, sampling and augmentation")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads; none: torch's default")
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="mixed precision")
    channels_last: bool | None = Field(
        None, description="store activations channels-last, faster on most hardware; none: in mixed precision"
    )
    compile: bool = Field(False, description="compile the backbone with torch.compile")
    batch_size: int = Field(4, ge=1, description="images a forward pass, of each process")
    accumulate: int = Field(1, ge=1, description="forward and backward passes to each optimizer step")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights, which is evaluated and published; none: off"
    )
    sync_batch_norm: bool = Field(False, description="batch norm over the images of all processes")
    checkpoint_every: int = Field(500, ge=1, description="iterations between checkpoints")
    log_every: int = Field(10, ge=1, description="iterations between rows of metrics.csv")
    start_from: str = Field(
        "random",
        description="weights to start from: random; imagenet (backbone); NAME:WEIGHTS, torchvision's published "
        "detection weights; a checkpoint, a state_dict (.pth, alone or in another program's checkpoint), or a bundle's "
        "folder",
    )
    class_map: dict[str, str] = Field(
        {},
        description="class: class of the starting weights whose part of the heads it takes; equal names match",
        examples=[{"van": "car"}],
    )
    trainable_backbone_layers: int | None = Field(None, ge=0, description="backbone stages that learn; none: all")
    loggers: tuple[Literal["mlflow", "wandb"], ...] = Field(
        (), description="send figures there too, besides metrics.csv and TensorBoard", examples=[("mlflow",)]
    )
    publish: bool = Field(True, description="export, check and publish a bundle at the end")
    publish_if: PublishIf = Field(
        "always", description="better: only with a higher AP on the validation split than the version that is served"
    )
    export_half: bool = Field(False, description="store model.onnx's weights as fp16 (computation stays fp32)")
    export_int8: bool = Field(
        False, description="publish the network in INT8 too, beside model.onnx; needs a validation split"
    )
    export_f16: bool = Field(
        True, description="measure on the validation split what the network loses in half precision, on GPUs"
    )
    export_references: ReferenceImages = Field(
        "data",
        description="images that go into the bundle with their answers, for a GPU to be compared with: some of the "
        "validation split, generated ones, or none",
    )
    intensity: Intensity = Field(default_factory=Intensity)
    architecture: ArchitectureConfig = Field(default_factory=ArchitectureConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augment.copy_paste and "masks" not in self.architecture.task:
            raise ValueError(
                f"augment.copy_paste needs masks, which architecture.task '{self.architecture.task}' does without: "
                f"set it to 0, or train masks"
            )
        if max(self.augment.min_sizes, default=0) > self.architecture.max_size:
            raise ValueError(
                f"augment.min_sizes go up to {max(self.augment.min_sizes)}, but no side may be longer than "
                f"architecture.max_size, {self.architecture.max_size}"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """Where this run writes: `output`, or runs/NAME."""
        return self.output or Path("runs") / self.name

    @property
    def model_repository(self) -> Path:
        """Where the finished bundle is published: `repository`, or models/ in the run's folder."""
        return self.repository or self.run_folder / "models"


def flat_fields(group: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field's name, dotted as the flags have it, and its value: text as it is, everything else as JSON."""
    plain = group.model_dump(mode="json")
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            dumped = plain.get(name, value)  # a value that is left out of files is plain
            yield f"{prefix}{name}", dumped if isinstance(dumped, str) else json.dumps(dumped)


def recipe_names() -> list[str]:
    """Names that `--recipe` knows."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe's name, or of a path to one. Raises ValueError naming the known recipes."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        others = f"known: {', '.join(recipe_names())}, or the path of a .yaml file"
        raise ValueError(f"no recipe {name!r}; {did_you_mean(name, recipe_names(), otherwise=others)}")
    return path


def save_config(config: TrainConfig, path: Path) -> None:
    """Writes `config` as YAML that `--recipe PATH` reads back."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_file(path, text.encode())
