"""Checkpoint to bundle: export, compare with the trained network, publish.

maskserve export --checkpoint runs/nuclei/checkpoints/best.pt --output models
maskserve export --checkpoint runs/nuclei/checkpoints/best.pt --data DIR --output models --int8
maskserve export --torchvision maskrcnn_resnet50_fpn_v2:COCO_V1 --output models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model.console.arguments import Parser, number, whole
from model.console.running import interruptible
from model.network.published import published_model
from model.runtime.bundles.bundle import BundleError
from model.runtime.bundles.manifest import ModelName, Provenance
from training.checkpoint import CheckpointError, load_checkpoint
from training.command_line import require_writable, stop
from training.config import NAME_RULE
from training.data.annotations.dataset import DatasetError
from training.data.formats.locate import add_origin_flags
from training.data.loading.samples import UnreadableImage
from training.data.loading.source import DataStop, load_training_data
from training.progress import Display
from training.publishing.gate import generated_images
from training.publishing.publish import Export, ExportOptions, GateError, publish, publish_run
from training.publishing.trades import CALIBRATION_IMAGES, MOST_AP_LOST, TradeOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Publishes one bundle; returns the exit status."""
    options = _parser().parse_args(arguments)
    require_writable("--output", options.output)
    try:
        trades = TradeOptions(
            options.int8, options.calibration_images, options.proposals, options.min_size, options.most_ap_lost
        )
        files = ExportOptions(
            options.half, "torchscript" not in options.without, "weights" not in options.without, trades
        )
        with Display() as display:
            if options.torchvision is None:
                checkpoint = load_checkpoint(options.checkpoint)
                config = checkpoint.train_config()
                changes = {"repository": options.output, "name": options.name or config.name, "data": options.data}
                changes |= {"annotations": tuple(options.annotations), "images": options.images}
                changes |= {} if options.orientation == "auto" else {"orientation": options.orientation}
                changes |= {} if options.mask_objects == "auto" else {"mask_objects": options.mask_objects}
                changes |= {} if options.class_attribute is None else {"class_attribute": options.class_attribute}
                changes |= {} if options.on_broken is None else {"on_broken": options.on_broken}
                config = config.model_copy(update=changes)
                described = options.data is not None or options.annotations
                data = load_training_data(config) if described else None
                bundle = publish_run(config, data, checkpoint, display, files)
            elif trades:
                stop(
                    "--torchvision: a trade is measured on the data of a training; export a checkpoint, with its --data"
                )
            else:
                model, _, _ = options.torchvision.partition(":")
                name = options.name or model.replace("_", "-")
                bundle = publish(_published(options.torchvision, files), options.output, name, display)
    except (CheckpointError, DatasetError, DataStop, BundleError, ValueError) as error:
        stop(str(error))
    except (GateError, UnreadableImage) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"published {bundle.path}", file=sys.stderr)
    return 0


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
        "--without", nargs="*", default=(), choices=("torchscript", "weights"), help="files to leave out of the bundle"
    )
    trades = parser.add_argument_group(
        "accuracy for speed", "the same weights; needs --data with a validation split, on which the loss is measured"
    )
    trades.add_argument("--int8", action="store_true", help="convolutions and linear layers of model.onnx in INT8")
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
