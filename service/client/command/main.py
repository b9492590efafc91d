"""The command line: reads the arguments, runs, and says how it went by the exit code."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import re
import sys
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, get_args

from model.console.arguments import Parser, did_you_mean, number, whole
from model.console.outputs import overwritten, why_unwritable
from model.runtime.analysis.file_types import FILE_TYPES
from service.client.calls import IntensityMode, MaskForm, PredictOptions
from service.client.client import URL, AsyncClient
from service.client.command.bulk import MISUSED, Bulk, Job, Tally
from service.client.command.coco_ids import CocoIds, ImageId, read_ids
from service.client.command.formats import (
    DATASET,
    FRAMES,
    FormatName,
    Output,
    csv_columns,
    csv_frame,
    dataset_tail,
)
from service.client.command.inputs import UsageError, find_images, places
from service.client.command.plane_files import PlaneFiles
from service.client.command.progress import Display
from service.client.errors import ClientError, ServerProblem

URL_VARIABLE, KEY_VARIABLE = "MASKSERVE_CLIENT_URL", "MASKSERVE_CLIENT_KEY"
TIMEOUT = 300.0
RETRIES = 30
"""More patience than a program's default: nobody waits for a single answer, and a server may be restarted meanwhile."""

MANUAL = """\
Predict images with a maskserve server and write the results in the images' order.

IMAGE is a file, a folder (every image in it and in the folders below, hidden ones left out), or a pattern in quotes, in
which ** stands for any folders.
"""

FORMATS = """\
formats:
  jsonl  a line for each image: {"file": ..., and the server's answer as it is}, or {"file": ..., "problem": {...}}
  coco   one list of COCO results; image_id is the image's position from 1, or what --image-ids says, and
         --coco-images writes which file that is: COCO(IMAGES).loadRes(RESULTS) reads both
  csv    a row for each detection, with what is measured of it; its area is its mask's in pixels, or its box's where
         there are no masks

  These are files for analysis tools, one for each image, in the folder OUTPUT:
  geojson  for QuPath
  imagej   a ZIP of ROIs for ImageJ and Fiji
  labels   a TIFF whose pixels hold the objects' numbers

  With --planes all each plane has its own line (with "plane"), id, rows (with page, z, t and channel) or file, whose
  name says which it is: cells-z07-channel1.png

exit codes:
  0    every image was answered
  1    some were not, and are named on stderr; the results of the others are written
  2    wrong usage, no images, or the results cannot be written
  3    the server cannot be reached, or refuses the key
  130  interrupted; what was finished is written
"""


class ExitCode(IntEnum):
    ANSWERED = 0
    SOME_FAILED = 1
    WRONG_USAGE = 2
    NO_SERVER = 3
    INTERRUPTED = 130


class NoServerError(Exception):
    """The first contact failed; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    tally = Tally()
    total = 0
    said = beside = ""
    try:
        ids = _own_ids(asked)
        jobs, beside = _jobs(asked, ids)
        total = len(jobs)
        asyncio.run(_run(asked, jobs, ids, tally))
        code = ExitCode.SOME_FAILED if tally.failed else ExitCode.ANSWERED
    except KeyboardInterrupt:
        code, said = ExitCode.INTERRUPTED, "interrupted"
    except UsageError as error:
        code, said = ExitCode.WRONG_USAGE, str(error)
    except NoServerError as error:
        code, said = ExitCode.NO_SERVER, str(error)
    except ClientError as error:
        misused = isinstance(error, ServerProblem) and error.status in MISUSED
        code, said = ExitCode.WRONG_USAGE if misused else ExitCode.NO_SERVER, str(error)
    except OSError as error:  # those of single images have become their own errors
        where = f"{error.filename}: " if error.filename else ""
        code, said = ExitCode.WRONG_USAGE, f"the results cannot be written: {where}{error.strerror}"
    if said:
        print(f"maskserve: {said}", file=sys.stderr)
    if total and not asked.quiet:
        answered = f"{tally.answered} of {total} images" if asked.planes is None else f"{tally.answered} planes"
        print(f"maskserve: {answered} answered, {tally.failed} failed{beside}", file=sys.stderr)
    return code


def _own_ids(asked: argparse.Namespace) -> CocoIds | None:
    for flag, value in (("--coco-images", asked.coco_images), ("--image-ids", asked.image_ids)):
        if value is not None and asked.format != "coco":
            raise UsageError(f"{flag} goes with --format coco")
    if asked.image_ids is not None and asked.planes is not None:
        raise UsageError("--image-ids has an id for each file, and --planes all gives each plane one: leave one out")
    return None if asked.image_ids is None else read_ids(asked.image_ids)


def _jobs(asked: argparse.Namespace, ids: CocoIds | None) -> tuple[list[Job], str]:
    """One for each image, and what to say about the files beside them. Raises UsageError."""
    found = find_images(asked.images, [folder for folder in (asked.overlay, _folder(asked)) if folder is not None])
    inputs = found.images
    numbers: Sequence[ImageId | None] = range(1, len(inputs) + 1) if ids is None else ids.of_images(inputs)
    if asked.planes is not None:
        numbers = [None] * len(inputs)  # how many planes there are, the server knows
    overlays: Sequence[Path | None] = [None] * len(inputs)
    files = overlays
    if asked.overlay is not None:
        overlays = places(inputs, asked.overlay, ".png")
    if (folder := _folder(asked)) is not None:
        files = places(inputs, folder, FILE_TYPES[asked.format].suffix)
    jobs = list(map(Job, inputs, numbers, overlays, files))
    _require_writable(asked, jobs)
    return jobs, "".join(f"; {one}" for one in found.beside.remarks())


def _folder(asked: argparse.Namespace) -> Path | None:
    """Where each image has a file of its own; None where all have one together. Raises UsageError."""
    if asked.format in ("jsonl", "coco", "csv"):
        return None
    if asked.output is None:
        raise UsageError(f"--format {asked.format} writes a file for each image: name a folder for them with --output")
    return Path(asked.output)


def _require_writable(asked: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Raises UsageError where results cannot be written, or would overwrite what is read or each other."""
    folder = _folder(asked)
    files = [("--output", asked.output if folder is None else None), ("--coco-images", asked.coco_images)]
    for flag, path in files:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"the results cannot be written: {path}: {os.strerror(errno.ENOENT)}")
        if path is not None and (why := why_unwritable(path, folder=False)):
            raise UsageError(f"{flag}: {why}")
    for flag, path in (("--output", folder), ("--overlay", asked.overlay)):
        if path is not None and (why := why_unwritable(path, folder=True)):
            raise UsageError(f"{flag}: {why}")
    for job in jobs:
        files += [(f"--overlay {asked.overlay}", job.overlay), (f"--output {folder}", job.file)]
    read = [job.image.path for job in jobs] + ([] if asked.image_ids is None else [asked.image_ids])
    if wrong := overwritten([(flag, path) for flag, path in files if path is not None], read):
        raise UsageError(wrong)


async def _run(asked: argparse.Namespace, jobs: Sequence[Job], ids: CocoIds | None, tally: Tally) -> None:
    key = asked.api_key or os.environ.get(KEY_VARIABLE) or None
    try:
        client = AsyncClient(asked.url, key, asked.timeout, asked.retries)
    except ValueError as error:
        raise UsageError(str(error)) from None
    async with client:
        default, labels = await _first_contact(client)
        known = labels.get(asked.model or default, {})
        categories = None if ids is None else ids.categories
        if ids is not None and asked.version is None:  # of another version than the newest the answers tell
            ids.require_labels(asked.labels or list(known.values()))
        bar = sys.stderr.isatty() and not asked.quiet and not (asked.output is None and sys.stdout.isatty())
        columns = csv_columns(asked.channels, planes=asked.planes is not None)
        frame = csv_frame(columns) if asked.format == "csv" else FRAMES.get(asked.format)
        output = None if frame is None else Output(partial(_opened, asked.output), frame)
        dataset = None if asked.coco_images is None else Output(partial(_opened, asked.coco_images), DATASET)
        tail = dataset_tail(known if categories is None else {one: name for name, one in categories.items()})
        with Display(len(jobs), bar=bar) as display:
            planes = None
            if asked.planes is not None:
                written = [path for path in (asked.output, asked.coco_images) if path is not None]
                planes = PlaneFiles([job.image.path for job in jobs], written)
            bulk = Bulk(
                client, _options(asked), asked.format, labels, categories, output, dataset, display, tally, planes
            )
            try:
                await bulk.run(jobs, asked.jobs)
                if output is not None:
                    output.end()
                if dataset is not None:
                    dataset.end(tail)
            except ServerProblem as problem:
                if problem.status == HTTPStatus.NOT_FOUND and asked.model is not None:
                    hint = did_you_mean(asked.model, list(labels), otherwise="")
                    problem.detail = f"{problem.detail} {hint[:1].upper() + hint[1:]}".rstrip()
                raise
            finally:  # what is there is whole
                if output is not None:
                    output.close()
                if dataset is not None:
                    dataset.close(tail)


async def _first_contact(client: AsyncClient) -> tuple[str, dict[str, dict[int, str]]]:
    """The server's default model, and the labels by id of each model and alias.

    A wrong address or key is told at once, before anything is written. Raises NoServerError.
    """
    try:
        await client.ready()  # asks once: a server that is not there at the start is no passing trouble
        models = await client.models()
        labels = {
            one["name"]: {int(number): name for number, name in one["labels"].items()} for one in models["models"]
        }
        aliases = {
            name: labels[of.partition(":")[0]]
            for name, of in models.get("aliases", {}).items()
            if of.partition(":")[0] in labels  # else its model is gone, which the answer will say
        }
        return models["default"], labels | aliases
    except ClientError as error:
        raise NoServerError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NoServerError(f"{client.url} answers, but is no maskserve server") from None


def _options(asked: argparse.Namespace) -> PredictOptions:
    return {
        "score_threshold": asked.score_threshold,
        "max_detections": asked.max_detections,
        "labels": asked.labels,
        "masks": asked.masks,
        "intensity": asked.intensity,
        "low": asked.low,
        "high": asked.high,
        "page": asked.page,
        "z": asked.z,
        "t": asked.t,
        "channel": asked.channel,
        "channels": asked.channels,
        "pixel_size_um": asked.pixel_size_um,
        "tile": asked.tile,
        "overlap": asked.overlap,
        "scale": asked.scale,
        "object_diameter": asked.object_diameter,
        "model": asked.model,
        "version": asked.version,
        "priority": asked.priority,
    }


def _opened(path: Path | None) -> BinaryIO:
    """The file, or stdout as a stream of its own, which leaves nothing to be flushed when the reader has gone."""
    return open(sys.stdout.fileno(), "wb", closefd=False) if path is None else path.open("wb")


def _tile(text: str) -> str:
    if text not in ("auto", "off") and not re.fullmatch("[1-9][0-9]{2,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no side of a tile; give auto, off, or pixels from 100 to 9999")
    return text


def _channels(text: str) -> tuple[int | None, ...]:
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch("[0-9]{0,9}", name) for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} are no channels; give numbers from 0, as in 2,0,1")
    return tuple(int(name) if name else None for name in names)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="maskserve predict",
        description=MANUAL,
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="file, folder or quoted pattern")
    server = parser.add_argument_group("server").add_argument
    server("--url", default=os.environ.get(URL_VARIABLE, URL), help=f"default: {URL_VARIABLE}, or {URL}")
    server("--api-key", type=str, metavar="KEY", help=f"default: {KEY_VARIABLE}, which shows in no list of processes")
    server("--jobs", type=whole(1), default=4, metavar="N", help="images sent at a time (default: %(default)s)")
    server(
        "--timeout",
        type=number(0, above=True),
        default=TIMEOUT,
        metavar="SECONDS",
        help="for one image, with all its retries (default: %(default)g)",
    )
    server(
        "--retries",
        type=whole(0),
        default=RETRIES,
        metavar="N",
        help="of one image, when the server is busy or the connection is lost (default: %(default)s)",
    )
    server("--priority", choices=("interactive", "bulk"), default="bulk", help="default: %(default)s")
    wishes = parser.add_argument_group("detections (default: as the model says)").add_argument
    wishes("--model", metavar="NAME")
    wishes("--version", type=int, metavar="N", help="of the model")
    wishes("--score-threshold", type=float, metavar="SCORE", help="detections score more than this, 0 to 1")
    wishes("--max-detections", type=int, metavar="N", help="at most this many of an image, the best")
    wishes("--labels", action="append", default=[], metavar="NAME", help="only this label; may be repeated")
    wishes(
        "--masks", choices=get_args(MaskForm), default="rle", help="their form in the results (default: %(default)s)"
    )
    wishes(
        "--intensity",
        choices=get_args(IntensityMode),
        help="how values become 8 bits (default: as the model says, which is auto unless it was trained otherwise)",
    )
    wishes("--low", type=float, metavar="VALUE", help="becomes black: a value of the file, or with percentile percent")
    wishes("--high", type=float, metavar="VALUE", help="becomes white, likewise")
    wishes("--page", type=int, metavar="N", help="which plane of a TIFF, in the file's order, from 0")
    wishes("--z", type=int, metavar="N", help="which focal plane of an OME-TIFF or ImageJ stack, from 0")
    wishes("--t", type=int, metavar="N", help="which point of time of such a stack, from 0")
    wishes("--channel", type=int, metavar="N", help="which channel of a stack, or of an RGB image, from 0")
    wishes(
        "--planes",
        choices=("all",),
        help="every plane that --z, --t, --channel and --channels leave open is an image of its own",
    )
    wishes(
        "--channels",
        type=_channels,
        metavar="N,N,N",
        help="which of the file's channels, from 0, are the model's red, green and blue, an empty one for black",
    )
    wishes(
        "--pixel-size-um",
        type=float,
        metavar="SIZE",
        help="micrometers from one pixel to the next, for areas and diameters in µm (default: as the file says)",
    )
    wishes(
        "--tile",
        type=_tile,
        metavar="SIDE",
        help="see large pictures in tiles of that many pixels: auto (default), off, 100-9999",
    )
    wishes("--overlap", type=int, metavar="PIXELS", help="what tiles have in common (default: a third of a tile)")
    wishes("--scale", type=float, metavar="FACTOR", help="what pictures are resized by before the model sees them")
    wishes(
        "--object-diameter",
        type=float,
        metavar="PIXELS",
        help="in place of --scale: how large objects are, for the model to see them as large as in its training",
    )
    results = parser.add_argument_group("results").add_argument
    results("--format", choices=get_args(FormatName), default="jsonl", help="see below (default: %(default)s)")
    results(
        "--output", type=Path, metavar="PATH", help="a file, by default stdout; of geojson, imagej and labels a folder"
    )
    results(
        "--coco-images",
        type=Path,
        metavar="FILE",
        help="with --format coco: the images and categories, as a COCO dataset",
    )
    results(
        "--image-ids",
        type=Path,
        metavar="FILE",
        help="with --format coco: your own ids of the images, and of categories where FILE has some: a COCO dataset, a "
        "JSON object of file names and ids, or a CSV of the two",
    )
    results(
        "--overlay", type=Path, metavar="FOLDER", help="also write each image with its detections drawn on it, as a PNG"
    )
    results("--quiet", action="store_true", help="no progress bar and no summary; errors are still named")
    return parser
