"""Answers in lines (application/x-ndjson): how far one is while it comes, and the JSON answer that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from service.client.errors import ConnectionLostError, ServerProblem

NDJSON: Final = "application/x-ndjson"
Progress = Callable[[int, int], None]
"""Is told `done` and `of`: tiles of a large picture, or planes of a file. A request that is sent again begins anew."""

_COLUMNS: Final = {
    "boxes": "box",
    "labels": "label",
    "label_ids": "label_id",
    "scores": "score",
    "masks": "mask",
    "keypoints": "keypoints",
}
"""What a detection has of each."""
_PROGRESS: Final = b'{"progress":'


class Watch:
    """Sees an answer's bytes, in pieces of any size, and tells how far it is, where there is somebody to be told. Of
    answers that are no lines it tells nothing."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._line: list[bytes] = []
        self._is_head = True
        self._of = self._done = 0

    def add(self, piece: bytes) -> None:
        """Raises ConnectionLostError where it can make nothing of it."""
        if self._progress is None:
            return
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._see(b"".join([*self._line, end]), self._progress)
            self._line.clear()
        self._line.append(rest)

    def _see(self, line: bytes, progress: Progress) -> None:
        if line.startswith(_PROGRESS):
            said = _parsed(line)["progress"]
            tiles = said.get("tiles")
            if tiles is not None:  # planes are counted as they come
                progress(tiles, said["of"])
        elif self._is_head:
            self._is_head = False
            if line.startswith(b'{"model":'):
                self._of = _parsed(line).get("planes", 0)
            if self._of:
                progress(0, self._of)
        elif self._done < self._of:
            self._done += 1
            progress(self._done, self._of)


def assembled(body: bytes) -> bytes:
    """The JSON answer, to the byte, that the server would have given instead of these lines.

    Raises ServerProblem where they end with one, ConnectionLostError where they end before the end.
    """
    lines = [line for line in body.split(b"\n") if line and not line.startswith(_PROGRESS)]
    last = _parsed(lines[-1]) if lines else {}
    if "end" not in last and "error" not in last:
        raise ConnectionLostError(f"the answer ended after {len(lines)} lines, before its end")
    try:
        if "error" in last:
            problem = last["error"]
            raise ServerProblem.from_json(problem["status"], problem, problem.pop("retry_after", None))
        head, items = _parsed(lines[0]), lines[1:-1]
        (what, count), *_ = last["end"].items()
        if not len(items) == head[what] == count:
            raise ConnectionLostError(f"the answer has {len(items)} of {head[what]} {what}")
        if what == "planes":
            return b'{"answers":[' + b",".join(items) + b"]}"
        return orjson.dumps(_in_columns(head, [_parsed(item) for item in items]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConnectionLostError(f"the answer's lines make no sense: {error!r}") from None


def _in_columns(head: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {name: [one[_COLUMNS[name]] for one in detections] for name in head["columns"]}
    return {
        **{name: head[name] for name in ("model", "image")},
        **columns,
        **{name: head[name] for name in ("truncated", "timing_ms")},
    }


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ConnectionLostError("a line of the answer is no JSON; was it cut off?")
    return value
