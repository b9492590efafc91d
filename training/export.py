"""Checkpoint to bundle: export, compare with the trained network, publish.

maskserve export --checkpoint runs/nuclei/checkpoints/best.pt --output models
maskserve export --checkpoint runs/nuclei/checkpoints/best.pt --data DIR --output models --int8 beside
maskserve export --bundle models/nuclei/1 --data DIR --output models --int8 beside
maskserve export --torchvision maskrcnn_resnet50_fpn_v2:COCO_V1 --output models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from model.console.arguments import Parser, number, whole
from model.console.running import interruptible
from model.network.published import published_model
from model.network.weights import load_network
from model.runtime.bundles.bundle import Bundle, BundleError, open_bundle
from model.runtime.bundles.manifest import ModelName, Provenance
from training.checkpoint import CheckpointError, load_checkpoint
from training.command_line import require_repository, stop
from training.config import NAME_RULE, ReferenceImages, TrainConfig
from training.data.annotations.classes import order_classes
from training.data.annotations.dataset import DatasetError
from training.data.formats.locate import add_origin_flags
from training.data.loading.samples import UnreadableImage, readable_images
from training.data.loading.source import DataStop, TrainingData, load_training_data, named
from training.progress import Display
from training.publishing.checks import GateError
from training.publishing.exported import Export, ExportOptions
from training.publishing.gate import GATE_IMAGES, generated_images
from training.publishing.precisions import publish_diameter, publish_measured
from training.publishing.publish import publish, publish_run
from training.publishing.trades import CALIBRATION_IMAGES, MOST_AP_LOST, Int8, TradeOptions
from training.starting.identity import dataset_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Publishes one bundle; returns the exit status."""
    options = _parser().parse_args(arguments)
    require_repository("--output", options.output)
    try:
        trades = TradeOptions(
            options.int8, options.calibration_images, options.proposals, options.min_size, options.most_ap_lost
        )
        files = ExportOptions(
            half=options.half,
            torchscript="torchscript" not in options.without,
            weights="weights" not in options.without,
            references=options.references,
            measure_half="f16" not in options.without,
            trades=trades,
        )
        with Display() as display:
            if options.checkpoint is not None:
                checkpoint = load_checkpoint(options.checkpoint)
                config = _with_data(checkpoint.train_config(), options)
                bundle = publish_run(config, _data(config), checkpoint, display, files)
            elif options.bundle is not None:
                bundle = _again(options, files, display)
            elif trades.is_measured:
                stop(
                    "--torchvision: a trade is measured on the data of a training; export a checkpoint, with its --data"
                )
            else:
                model, _, _ = options.torchvision.partition(":")
                name = options.name or model.replace("_", "-")
                bundle = publish(_published(options.torchvision, files), options.output, name, display)
    except (CheckpointError, DatasetError, DataStop, BundleError, ValueError) as error:
        stop(str(error))
    except (GateError, UnreadableImage, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:  # a standard stream's, which ends every command
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"published {bundle.path}", file=sys.stderr)
    return 0


def _with_data(config: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """The configuration of a training, of other data, for another place."""
    changes = {"repository": options.output, "name": options.name or config.name, "data": options.data}
    changes |= {"annotations": tuple(options.annotations), "images": options.images}
    changes |= {} if options.orientation == "auto" else {"orientation": options.orientation}
    changes |= {} if options.mask_objects == "auto" else {"mask_objects": options.mask_objects}
    changes |= {} if options.class_attribute is None else {"class_attribute": options.class_attribute}
    changes |= {} if options.on_broken is None else {"on_broken": options.on_broken}
    return config.model_copy(update=changes)


def _data(config: TrainConfig) -> TrainingData | None:
    return None if named(config) is None else load_training_data(config)


def _again(options: argparse.Namespace, files: ExportOptions, display: Display) -> Bundle:
    """A bundle's files once more, with the size of its training objects and what half precision loses, reference images
    where it has none, and its network in INT8 beside them."""
    wishes = files.trades
    if wishes or not {"f16"}.issuperset(options.without):
        raise ValueError(
            "a bundle's files stay as they are: with --bundle give --int8 beside or nothing, and no other trade"
        )
    source = open_bundle(options.bundle)
    known = source.manifest
    if wishes.int8 and "f32" not in known.network_precisions:
        raise ValueError(f"{source.path} has nothing but INT8: export its checkpoint, with --int8 beside")
    intensity = known.preprocessing.intensity
    config = TrainConfig(name=known.name, architecture=known.architecture, intensity=intensity)
    config = _with_data(config, options)
    data = _data(config)
    if data is None:
        raise ValueError("a bundle is measured on data: give --data, a dataset with a validation split")
    train = order_classes(data.train, known.class_names)
    if train.class_names != known.class_names:
        raise ValueError(
            f"{source.path} knows {', '.join(known.class_names)}, the data {', '.join(train.class_names)}: the classes "
            f"must be the same"
        )
    if wishes.int8 is None and (data.val is None or not files.measure_half or "f32" not in known.network_precisions):
        return publish_diameter(source, train, options.output, config.name)
    if data.val is None:
        raise ValueError("INT8 is calibrated and measured on data: give --data, a dataset with a validation split")
    val = order_classes(data.val, known.class_names)
    readable = readable_images(val.images, intensity, config.on_broken, known.architecture.channels)
    export = Export(
        model=load_network(source),
        architecture=known.architecture,
        class_names=known.class_names,
        provenance=known.provenance,
        images=list(islice(readable, GATE_IMAGES)),
        intensity=intensity,
        keypoint_names=known.keypoint_names,
        train=train,
        val=val,
        data_name=dataset_name(config),
        max_detections=known.architecture.detections_per_image,
        options=files,
    )
    return publish_measured(source, export, options.output, config.name, display)


def _published(source: str, options: ExportOptions) -> Export:
    """torchvision's published model `NAME:WEIGHTS` (weights default to COCO_V1)."""
    name, _, weights = source.partition(":")
    published = published_model(name, weights or "COCO_V1")
    return Export(
        model=published.model,
        architecture=published.architecture,
        class_names=published.class_names,
        keypoint_names=published.keypoint_names,
        provenance=Provenance(
            dataset="COCO 2017",
            license="torchvision's weights, BSD-3-Clause; COCO annotations, CC BY 4.0",
            initial_weights=f"torchvision {name}:{weights or 'COCO_V1'}",
        ),
        images=generated_images(),
        options=options,
    )


def _name(text: str) -> str:
    try:
        name: str = TypeAdapter(ModelName).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a model: {NAME_RULE}") from None
    return name


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="maskserve export", description="Export, compare with the trained network, publish a bundle.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="a training run's checkpoint")
    source.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="a bundle NAME/VERSION, to publish again: with the size of --data's objects, what half precision loses on "
        "its validation split, and --int8 beside",
    )
    source.add_argument("--torchvision", metavar="NAME:WEIGHTS", help="torchvision's published model and weights")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="model repository to publish into")
    parser.add_argument("--name", type=_name, help="model name; default: the run's or torchvision's")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="dataset folder: its images pass the gate, its AP is compared"
    )
    add_origin_flags(parser)
    parser.add_argument(
        "--on_broken",
        choices=("stop", "skip"),
        help="broken records of --data: stop, or leave them out; default: as in the training",
    )
    parser.add_argument(
        "--half", action="store_true", help="store model.onnx's weights as fp16; computation stays fp32"
    )
    parser.add_argument(
        "--without",
        nargs="*",
        default=(),
        choices=("torchscript", "weights", "f16"),
        help="what to leave out of the bundle: files, or what half precision loses, which takes longer to measure than "
        "the AP",
    )
    parser.add_argument(
        "--references",
        choices=get_args(ReferenceImages),
        default="data",
        help="images that go into the bundle with their answers, for a GPU to be compared with: some of --data (the "
        "default), generated ones, or none",
    )
    trades = parser.add_argument_group(
        "accuracy for speed", "the same weights; needs --data with a validation split, on which the loss is measured"
    )
    trades.add_argument(
        "--int8",
        nargs="?",
        const="alone",
        choices=get_args(Int8),
        help="convolutions and linear layers in INT8: alone, in model.onnx (the default), or beside it, in "
        "model.int8.onnx, for whoever serves to choose",
    )
    trades.add_argument(
        "--calibration_images",
        type=whole(1),
        default=CALIBRATION_IMAGES,
        metavar="N",
        help=f"training images that INT8's scales come from; default: {CALIBRATION_IMAGES}",
    )
    trades.add_argument("--proposals", type=whole(1), metavar="N", help="proposals an image that reach the box head")
    trades.add_argument(
        "--min_size",
        type=whole(1),
        metavar="N",
        help="shorter side that images are resized to; the longest in proportion",
    )
    trades.add_argument(
        "--most_ap_lost",
        type=number(0),
        default=MOST_AP_LOST,
        metavar="POINTS",
        help=f"points of the task's AP (0 to 100) beyond which nothing is published; default: {MOST_AP_LOST:g}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
