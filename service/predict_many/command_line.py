"""The flags of `maskserve predict-many`: its own, the prediction's parameters and the settings of the engine."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pydantic import ValidationError

from model.console.arguments import Parser, whole
from service.client.command.inputs import UsageError
from service.prediction.parameters import MAX_VERSION, PredictParameters
from service.settings.configuration import read_settings
from service.settings.settings import Settings

MANUAL: Final = """\
Predict a folder, a list or a bucket on this machine, without a server. Killed at any moment, the same command goes on
where it was.

SOURCE is a folder (every image in it and in the folders below, hidden ones left out), a pattern in quotes, images, a
prefix s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, or a list: text (a name a line), CSV or Parquet (with a column
file_name, and image_id where the images have ids), or a COCO dataset.
"""

RESULTS: Final = """\
results, in the folder or prefix OUTPUT:
  detections.parquet   a row for each detection, and one for each image without any
  images.parquet       with --rows images: a row for each image, with lists
  results.json         with --format coco: COCO results; images.json says which images their ids are
A bad image is a row with its error. _plan.json and _parts are what the run goes on from.

exit codes:
  0    every image was predicted
  1    some could not be: their rows say why
  2    wrong usage, or OUTPUT holds another run
  3    a store, a disk or the engine failed; the same command goes on
  130  interrupted; the same command goes on
"""

SETTINGS: Final = (
    *("models", "model", "engine", "device", "precision", "engine_threads", "max_batch_size", "max_queue_delay_ms"),
    *("engine_stall_ms", "warm_up", "decode_threads", "max_pixels", "max_picture_pixels", "trusted_keys", "config"),
)
"""Of the server, those that matter without one."""
PARAMETERS: Final = tuple(PredictParameters.model_fields)
FROM_ENVIRONMENT: Final = "$RAY_ADDRESS"
MASKS: Final = ("rle", "none")
"""The forms in which masks are kept; the others are made of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`ray` is the address of a cluster, or FROM_ENVIRONMENT; None: this machine alone."""

    sources: tuple[str, ...]
    output: str
    images: str | None
    format: Literal["parquet", "coco"]
    rows: Literal["detections", "images"]
    shard_size: int | None
    version: int | None
    quiet: bool
    ray: str | None
    parameters: PredictParameters
    settings: Settings


def read_arguments(arguments: list[str] | None) -> Asked:
    """Raises UsageError, and InvalidSettingsError."""
    given = _parser().parse_args(arguments)
    if given.version is not None and given.version > MAX_VERSION:
        raise UsageError(f"--version {given.version}: there is none so high")
    flags = ((name, getattr(given, name)) for name in SETTINGS)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags if value is not None]
    return Asked(
        tuple(given.sources),
        given.output,
        given.images,
        given.format,
        given.rows,
        given.shard_size,
        given.version,
        given.quiet,
        given.ray,
        _parameters({name: getattr(given, name) for name in PARAMETERS}),
        read_settings(words),
    )


def _parameters(given: dict[str, Any]) -> PredictParameters:
    try:
        return PredictParameters.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        said = []
        for one in error.errors():
            name = str(one["loc"][0])
            said.append(f"--{name.replace('_', '-')} {given[name]}: {one['msg'].removeprefix('Input ')}")
        raise UsageError("; ".join(said)) from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="maskserve predict-many",
        description=MANUAL,
        epilog=RESULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="what to predict")
    add("--output", required=True, metavar="FOLDER", help="where results go: a folder, s3://… or gs://…")
    add("--images", metavar="FOLDER", help="where a list's relative names begin (default: where the list lies)")
    add("--format", choices=("parquet", "coco"), default="parquet", help="of the result (default: %(default)s)")
    add(
        "--rows",
        choices=("detections", "images"),
        default="detections",
        help="what a row of the Parquet file is (default: %(default)s)",
    )
    add(
        "--shard-size",
        type=whole(1),
        metavar="N",
        help="images that are kept at a time (default: a hundredth, 16-1024)",
    )
    add(
        "--ray",
        nargs="?",
        const=FROM_ENVIRONMENT,
        metavar="ADDRESS",
        help="on the nodes of a Ray cluster: HOST:PORT of its head, auto (that of this machine) or local (one started "
        "here). Without ADDRESS: $RAY_ADDRESS, else local",
    )
    add("--quiet", action="store_true", help="no progress and no summary; errors are still named")
    wishes = parser.add_argument_group("detections (default: as the model says; see docs/serving.md)").add_argument
    for name, field in PredictParameters.model_fields.items():
        flag, text = f"--{name.replace('_', '-')}", _help(field.description)
        if name == "masks":
            wishes(flag, choices=MASKS, help="none: leave masks out, which saves their time (default: rle)")
        elif "list" in str(field.annotation):
            wishes(flag, action="append", metavar="NAME", help=text)
        else:
            wishes(flag, metavar="VALUE", help=text)
    engine = parser.add_argument_group("engine (also MASKSERVE_*, as for maskserve serve)").add_argument
    engine("--version", type=whole(1), metavar="N", help="of the model (default: the newest)")
    for name in SETTINGS:
        field = Settings.model_fields[name]
        choices = [word for word in get_args(field.annotation) if isinstance(word, str)]
        shown = "{" + ",".join(choices) + "}" if len(choices) > 1 else "VALUE"
        engine(f"--{name.replace('_', '-')}", metavar=shown, help=_help(field.description))
    return parser


def _help(text: str | None) -> str:
    return (text or "").replace("%", "%%")
