"""Where images are read and results are written: this machine's folders, and object stores through pyarrow."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pyarrow import fs

from model.console.arguments import did_you_mean
from model.console.outputs import PARTIAL
from service.client.command.inputs import UsageError

SCHEMES: Final = ("s3", "gs", "file")
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that name another S3 than Amazon's, the first that is set."""
CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, or the machine's account",
}

_DENIED: Final = re.compile("denied|credential|forbidden|unauthorized|signature|access.?key|token|40[13]", re.I)
_OPTIONS: Final = re.compile(r"[^=&?/]+=[^&?]*(?:&[^=&?/]+=[^&?]*)*")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
UNFINISHED: Final = b"\0unfinished"
"""Ends an object that must not be taken for a whole one: neither JSON nor a Parquet file ends so."""


class StoreError(Exception):
    """A store cannot be reached, or refuses; the message is one line. Trying again later may help."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A place in an object store: `path` is BUCKET/KEY, without a slash at its end, `base` the SCHEME:// before it."""

    store: fs.FileSystem
    path: str
    base: str

    @property
    def uri(self) -> str:
        return self.base + self.path

    def child(self, name: str) -> Remote:
        return Remote(self.store, f"{self.path}/{name}", self.base)

    def parent(self) -> Remote:
        return Remote(self.store, self.path.rpartition("/")[0] or self.path, self.base)

    def kind(self) -> fs.FileType:
        """What is there. Raises StoreError."""
        with told(self):
            return self.store.get_file_info(self.path).type

    def files(self, *, recursive: bool) -> list[str]:
        """The paths of the files in it, in no order; none where it is not there. Raises StoreError."""
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with told(self):
            return [info.path for info in self.store.get_file_info(selector) if info.type == fs.FileType.File]

    def read(self) -> bytes:
        """Raises FileNotFoundError and StoreError."""
        with told(self), self.store.open_input_stream(self.path) as stream:
            content: bytes = stream.read()
        return content


def locate(text: str) -> Path | Remote:
    """A path, `file:///PATH`, or `s3://BUCKET/KEY`, `gs://BUCKET/KEY` with pyarrow's options behind a `?`.

    Raises UsageError for nothing, for another scheme, and for a bucket that is not named or cannot be asked.
    """
    if not text:
        raise UsageError("an empty name: give a folder, a file or a prefix (is a variable of the shell not set?)")
    found = _URI.match(text)
    if found is None:
        return Path(text)
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES, otherwise=f"choose {', '.join(f'{one}://' for one in SCHEMES)}")
        raise UsageError(f"{text}: {scheme}:// is not known here; {hint}")
    rest = text[found.end() :]
    if scheme == "file":
        path = unquote(rest).removeprefix("localhost")
        if not path.startswith("/"):
            raise UsageError(f"{text}: behind file:// goes a whole path (file:///DIR); a relative one goes without")
        return Path(path)
    place, mark, query = rest.rpartition("?")
    if not mark or not _OPTIONS.fullmatch(query):  # a key may have a question mark
        place, query = rest.removesuffix("?"), ""
    bucket, _, key = place.partition("/")
    if not bucket:
        raise UsageError(f"{text}: no bucket is named; give {scheme}://BUCKET/PREFIX")
    key = key.rstrip("/")
    require_key(key)
    account, _, name = bucket.rpartition("@")  # gs://anonymous@BUCKET
    try:
        store = _opened(scheme, bucket, query, _endpoint() if scheme == "s3" else "")
    except (OSError, ValueError) as error:
        raise UsageError(f"{text}: {_said(error, scheme)}") from None
    return Remote(store, f"{name}/{key}" if key else name, f"{scheme}://{account}@" if account else f"{scheme}://")


def has_scheme(text: str) -> bool:
    """Whether `locate` takes it for a URI."""
    return _URI.match(text) is not None


def require_key(key: str) -> None:
    """Raises UsageError for a key that no file system of pyarrow takes: without the empty part it is another object."""
    if key.startswith("/") or "//" in key:
        raise UsageError(f"{key}: no store is asked for names with // in them or / before them: take it out, or rename")


@cache
def _opened(scheme: str, bucket: str, query: str, endpoint: str) -> fs.FileSystem:
    """Raises OSError and ValueError."""
    options = dict(parse_qsl(query))
    if scheme == "s3":
        options.setdefault("allow_delayed_open", "true")  # what is small goes in one PUT
        if endpoint and "endpoint_override" not in options:
            address = urlsplit(endpoint)
            options |= {"endpoint_override": address.netloc, "scheme": address.scheme}
    store, _ = fs.FileSystem.from_uri(f"{scheme}://{bucket}" + (f"?{urlencode(options)}" if options else ""))
    return store


def _endpoint() -> str:
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


@contextmanager
def told(place: Remote) -> Iterator[None]:
    """What goes wrong with a store, in one line. FileNotFoundError is not about the store."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{place.uri}: {_said(error, place.base.partition(':')[0])}") from None


class LocalFolder:
    """A folder for results. Files are there whole or not at all, also after a power failure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """It is there, and no other process works in it. Raises UsageError."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"--output: {self._path} cannot be written: {error.strerror}") from None
        try:
            with suppress(OSError):  # of a file system without locks
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    said = f"--output: another predict-many writes into {self._path}; let it end first"
                    raise UsageError(said) from None
            yield
        finally:
            os.close(folder)  # which lets go of it, as the end of the process does

    def names(self, folder: str) -> set[str]:
        """Of the files in a folder below; none where it is not there."""
        try:
            return set(os.listdir(self._path / folder))
        except FileNotFoundError:
            return set()

    def read(self, name: str) -> bytes | None:
        """None where it is not there."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream whose content is the file when the block has ended, and only then."""
        path = self._path / name
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{PARTIAL}-{path.name}")
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class RemoteFolder:
    """A prefix for results. An object is there when its stream was closed, whole. Its methods raise StoreError."""

    def __init__(self, place: Remote) -> None:
        self._place = place

    def __str__(self) -> str:
        return self._place.uri

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing keeps others out: two that do the same write the same."""
        yield

    def names(self, folder: str) -> set[str]:
        place = self._place.child(folder) if folder else self._place
        return {path.rpartition("/")[2] for path in place.files(recursive=False)}

    def read(self, name: str) -> bytes | None:
        try:
            return self._place.child(name).read()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        place = self._place.child(name)
        try:
            with told(place):
                stream = place.store.open_output_stream(place.path)
                try:
                    yield stream
                except BaseException:
                    with suppress(OSError, ValueError):
                        stream.write(UNFINISHED)
                    stream.close()  # which cannot be left out, and completes what is there
                    place.store.delete_file(place.path)
                    raise
                stream.close()
        except FileNotFoundError:
            raise StoreError(f"{place.uri}: there is no such bucket") from None


Folder = LocalFolder | RemoteFolder


def _said(error: Exception, scheme: str) -> str:
    """On one line, without the request's number, and where credentials come from, if it is about them."""
    said = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(str(error).split())).rstrip(".")
    if _DENIED.search(said):
        said += f". Credentials come from {CREDENTIALS[scheme]}"
    return said
