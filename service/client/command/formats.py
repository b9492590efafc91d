"""The forms in which the command writes results: JSON lines, COCO results, a CSV table, a file for each image.

Everything streams: a file that was cut off still holds the images before. A cut COCO file is no valid JSON, so it is
not taken for a whole one. A file is opened when it is certain that there are results, so that a refusal leaves what
was in it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import BinaryIO, Final, Literal

import orjson

from model.console.outputs import write_whole
from model.runtime.analysis.file_types import CSV_COLUMNS, FileFormat, intensity_columns
from service.client.command.coco_ids import ImageId
from service.client.errors import ClientError
from service.client.prediction import Prediction

FormatName = Literal["jsonl", "coco", FileFormat]
PlaneSaid = Mapping[str, Mapping[str, int]]
"""As the server says it: `index` and `of` for each axis."""


PLANE_COLUMNS: Final = ("page", "z", "t", "channel")


def csv_columns(channels: Iterable[int | None] | None, *, planes: bool) -> list[str]:
    """Of one table for all images: of a gray one, the intensities of two channels are empty. channels: those that are
    asked for beside red, green and blue. planes: each row says which plane it is of."""
    numbers = {0, 1, 2}.union(index for index in channels or () if index is not None)
    return ["file", *(PLANE_COLUMNS if planes else ()), *CSV_COLUMNS, *intensity_columns(sorted(numbers))]


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before, between and after the images."""

    head: bytes = b""
    separator: bytes = b""
    tail: bytes = b""


FRAMES: Final[Mapping[str, Frame]] = {
    "jsonl": Frame(),
    "coco": Frame(b"[\n", b",\n", b"\n]\n"),
}
DATASET: Final = Frame(b'{"images": [\n', b",\n")


class UnwrittenError(ClientError):
    """What was found in an image could not be written."""

    type = "urn:maskserve:client:unwritten"
    title = "The results cannot be written"


class Output:
    """Writes rendered images to what `opened` gives, each at once. `write`, `end` and `close` raise OSError."""

    def __init__(self, opened: Callable[[], BinaryIO], frame: Frame) -> None:
        self._opened = opened
        self._stream: BinaryIO | None = None
        self._frame = frame
        self._lead = b""
        self._held = frame.head

    def write(self, rendered: bytes, *, certain: bool = True) -> None:
        """certain: the server does answer. Until then everything is held back."""
        if rendered:
            self._held += self._lead + rendered
            self._lead = self._frame.separator
        if certain or self._stream is not None:
            self._flush()

    def end(self, tail: bytes | None = None) -> None:
        """Every image is done: write what is held back, if nothing was certain too, and what stands at the end."""
        self._flush()
        self.close(tail)

    def close(self, tail: bytes | None = None) -> None:
        """Write what stands at the end where something was written, so that it is whole."""
        if self._stream is None:
            return
        with self._stream as stream:
            self._stream = None
            stream.write(self._held + (self._frame.tail if tail is None else tail))

    def _flush(self) -> None:
        if self._stream is None:
            self._stream = self._opened()
        self._stream.write(self._held)
        self._stream.flush()
        self._held = b""


def dataset_tail(labels: Mapping[int, str]) -> bytes:
    """The end of a dataset that `pycocotools.coco.COCO` reads, whose `loadRes` reads COCO results. labels: the
    categories by id."""
    categories = orjson.dumps([{"id": number, "name": name} for number, name in labels.items()])
    return b'\n],\n"categories": ' + categories + b',\n"annotations": []}\n'


def json_line(file: str, answer: bytes, plane: PlaneSaid | None = None) -> bytes:
    """`file`, `plane` where all are asked for, and then the members of the server's answer, byte for byte."""
    return _lead(file, plane) + b"," + answer.strip().removeprefix(b"{") + b"\n"


def problem_line(file: str, error: ClientError, plane: PlaneSaid | None = None) -> bytes:
    return _lead(file, plane) + b',"problem":' + orjson.dumps(error.as_problem()) + b"}\n"


def _lead(file: str, plane: PlaneSaid | None) -> bytes:
    return orjson.dumps({"file": file, **({} if plane is None else {"plane": plane})}).removesuffix(b"}")


def coco_entries(prediction: Prediction, categories: Mapping[str, int] | None = None) -> list[bytes]:
    """Entries for COCO's list of results, to be completed by `with_id`. categories: their ids by name; None: label ids.

    Raises ClientError for a label that is none of them.
    """
    entries = prediction.to_coco(0)
    if categories is not None:
        for entry, label in zip(entries, prediction.labels, strict=True):
            if label not in categories:
                raise ClientError(f"the answer has the label {label!r}, and --image-ids has no category of that name")
            entry["category_id"] = categories[label]
    for entry in entries:
        del entry["image_id"]
    return list(map(orjson.dumps, entries))


def coco_image(file: str, prediction: Prediction | None = None, plane: PlaneSaid | None = None) -> bytes:
    """An entry of a COCO dataset's images, to be completed by `with_id`; without a prediction its size is unknown and
    left out. plane: of a file whose planes are images of their own."""
    entry: dict[str, object] = {"file_name": file}
    if plane is not None:
        entry |= {"plane": {axis: which["index"] for axis, which in plane.items()}}
    if prediction is not None:
        entry |= {"width": prediction.width, "height": prediction.height}
    return orjson.dumps(entry)


def with_id(name: str, image_id: ImageId, entries: Iterable[bytes]) -> bytes:
    """JSON objects, each with the image's id as its first member, under that name."""
    first = orjson.dumps({name: image_id}).removesuffix(b"}") + b","
    return b",\n".join(first + entry.removeprefix(b"{") for entry in entries)


def csv_frame(columns: Sequence[str]) -> Frame:
    return Frame(",".join(columns).encode() + b"\n")


def csv_rows(file: str, table: bytes, columns: Sequence[str], plane: PlaneSaid | None = None) -> bytes:
    """The rows of the server's table, each with the file's name and the plane.

    Raises UnwrittenError for columns that are not known here: a newer server's, or those of more channels than were
    asked for.
    """
    rows = csv.DictReader(StringIO(table.decode(), newline=""))
    if unknown := [name for name in rows.fieldnames or () if name not in columns]:
        advice = "; name the channels with --channels" if unknown[0].startswith("intensity_") else ""
        raise UnwrittenError(f"{file}: this client's table has no columns {', '.join(unknown)}{advice}")
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    index = {axis: which["index"] for axis, which in (plane or {}).items()}
    writer.writerows({"file": file, **index, **row} for row in rows)
    return text.getvalue().encode()


def write_file(content: bytes, path: Path) -> None:
    """Raises UnwrittenError."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise UnwrittenError(f"{error.filename or path}: {error.strerror or error}") from None
