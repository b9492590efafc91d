"""What can go wrong, as exceptions whose text is one line that can be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

NOT_OURS: Final = "about:blank"
"""The type of an answer that is no problem of the server's."""


class ClientError(Exception):
    """No answer to a request. `type` never changes for one kind of error; `detail` says what was wrong."""

    type = "urn:maskserve:client:error"
    title = "The request failed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = " ".join(detail.split())

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title

    def as_problem(self) -> dict[str, Any]:
        """The members of an RFC 9457 problem."""
        return {"type": self.type, "title": self.title, "detail": self.detail}


class ServerProblem(ClientError):
    """The server answered, with an error.

    `type` is one of the server's `urn:maskserve:problem:` names, or NOT_OURS when the answer is no problem of its
    own, but a proxy's perhaps. `retry_after` is in seconds, None when the answer has no Retry-After. `extra` holds the
    members that some kinds of problem have besides the usual ones.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        *,
        retry_after: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.title = title
        self.retry_after = retry_after
        self.extra = dict(extra or {})

    @classmethod
    def from_json(cls, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> Self:
        """From the members of an RFC 9457 problem, which must have type, title and detail."""
        extra = {name: value for name, value in problem.items() if name not in ("type", "title", "status", "detail")}
        words = [str(problem[name]) for name in ("type", "title", "detail")]
        return cls(status, *words, retry_after=retry_after, extra=extra)

    def as_problem(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }


class UnreachableError(ClientError):
    """No connection to the server could be made."""

    type = "urn:maskserve:client:unreachable"
    title = "The server cannot be reached"


class ConnectionLostError(ClientError):
    """The connection ended, or became unintelligible, before the answer was complete."""

    type = "urn:maskserve:client:connection-lost"
    title = "The connection was lost"


class TimedOutError(ClientError):
    """The client's own time was over."""

    type = "urn:maskserve:client:timed-out"
    title = "No answer in time"


class UnreadableFileError(ClientError):
    """The image's file could not be read. The text names it; `detail` alone says why."""

    type = "urn:maskserve:client:unreadable-file"
    title = "The file cannot be read"

    def __init__(self, detail: str, file: str = "") -> None:
        super().__init__(detail)
        self.file = file

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else repr(self.file)
        return f"{self.title}: {file}: {self.detail}" if file else super().__str__()
