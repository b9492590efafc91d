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


def csv_columns(channels: Iterable[int | None] | None) -> list[str]:
    """Of one table for all images: of a gray one, the intensities of two channels are empty. channels: those that are
    asked for beside red, green and blue."""
    numbers = {0, 1, 2}.union(index for index in channels or () if index is not None)
    return ["file", *CSV_COLUMNS, *intensity_columns(sorted(numbers))]


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


def json_line(file: str, answer: bytes) -> bytes:
    """`file` and then the members of the server's answer, byte for byte."""
    return b'{"file":' + orjson.dumps(file) + b"," + answer.strip().removeprefix(b"{") + b"\n"


def problem_line(file: str, error: ClientError) -> bytes:
    return orjson.dumps({"file": file, "problem": error.as_problem()}) + b"\n"


def coco_entries(prediction: Prediction, image_id: ImageId, categories: Mapping[str, int] | None = None) -> bytes:
    """Entries for COCO's list of results; empty when there are none. categories: their ids by name; None: label ids.

    Raises ClientError for a label that is none of them.
    """
    entries = prediction.to_coco(image_id)
    if categories is not None:
        for entry, label in zip(entries, prediction.labels, strict=True):
            if label not in categories:
                raise ClientError(f"the answer has the label {label!r}, and --image-ids has no category of that name")
            entry["category_id"] = categories[label]
    return b",\n".join(map(orjson.dumps, entries))


def coco_image(file: str, image_id: ImageId, prediction: Prediction | None = None) -> bytes:
    """An entry of a COCO dataset's images; without a prediction its size is unknown and left out."""
    entry: dict[str, object] = {"id": image_id, "file_name": file}
    if prediction is not None:
        entry |= {"width": prediction.width, "height": prediction.height}
    return orjson.dumps(entry)


def csv_frame(columns: Sequence[str]) -> Frame:
    return Frame(",".join(columns).encode() + b"\n")


def csv_rows(file: str, table: bytes, columns: Sequence[str]) -> bytes:
    """The rows of the server's table, each with the file's name. Raises UnwrittenError for columns that are not known
    here: a newer server's, or those of more channels than were asked for."""
    rows = csv.DictReader(StringIO(table.decode(), newline=""))
    if unknown := [name for name in rows.fieldnames or () if name not in columns]:
        advice = "; name the channels with --channels" if unknown[0].startswith("intensity_") else ""
        raise UnwrittenError(f"{file}: this client's table has no columns {', '.join(unknown)}{advice}")
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerows({"file": file, **row} for row in rows)
    return text.getvalue().encode()


def write_file(content: bytes, path: Path) -> None:
    """Raises UnwrittenError."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise UnwrittenError(f"{error.filename or path}: {error.strerror or error}") from None
