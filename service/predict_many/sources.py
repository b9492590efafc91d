"""Which images the command line names, in which order, and how each is read."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pyarrow import fs

from model.console.arguments import nearest_path
from model.runtime.images.data import Data
from service.client.command.coco_ids import ImageId
from service.client.command.inputs import SUFFIXES, UsageError, ending, find_images, told
from service.http.spool import IN_MEMORY
from service.predict_many.lists import LISTS, Entry, read_list
from service.predict_many.stores import Remote, StoreError, locate

OF_THE_MACHINE: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN)
)
"""Not one image's fault: no descriptors or memory are left, or a volume is gone."""


class UnreadableError(Exception):
    """An image's file cannot be read; the message says why, without its name."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image. `name` is what results call it: the path, or what the list has. `image_id` is None where its place in
    the list, from 1, is its id."""

    name: str
    place: Path | Remote
    image_id: ImageId | None = None

    def read(self) -> Data:
        """Its file. Raises UnreadableError where that is the image's own fault, StoreError where it is the store's."""
        if isinstance(self.place, Path):
            return _read_file(self.place)
        try:
            return self.place.read()
        except FileNotFoundError:
            raise UnreadableError("no such object") from None


@dataclass(frozen=True, slots=True)
class Images:
    """All of them. `categories` are the ids of COCO results by class name; None: the label ids. `passed_over` counts
    the files, or objects, beside them, by their endings."""

    images: Sequence[Image]
    categories: Mapping[str, int] | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """Of what each is called, where it is and which id it has, in their order. A relative path is another image in
        another working folder."""
        digest = hashlib.sha256()
        for one in self.images:
            place = one.place.uri if isinstance(one.place, Remote) else os.path.abspath(one.place)
            digest.update(repr((one.name, place, one.image_id)).encode(errors="surrogateescape"))
        return digest.hexdigest()

    @property
    def has_text_ids(self) -> bool:
        return any(isinstance(one.image_id, str) for one in self.images)

    @property
    def are_remote(self) -> bool:
        return any(isinstance(one.place, Remote) for one in self.images)

    def image_id(self, index: int) -> ImageId:
        own = self.images[index].image_id
        return index + 1 if own is None else own


def find(sources: Sequence[str], root: str | None, leave_out: Sequence[Path] = ()) -> Images:
    """What the sources name, each image once: of folders and prefixes what ends in one of `SUFFIXES`, sorted by path,
    and nothing hidden; of patterns what the shell would make of them; of a list what it says, in its order.

    root: where a list's relative names begin; by default where it lies. leave_out: folders that are results.
    Raises UsageError and StoreError.
    """
    places = [locate(source) for source in sources]
    lists = [place for place in places if _suffix(place) in LISTS]
    if lists and len(places) > 1:
        raise UsageError(f"{_shown(lists[0])} is a list of images: give it alone")
    if lists:
        return _listed(lists[0], root)
    if root is not None:
        raise UsageError("--images is where the names of a list begin, and no list is given: leave it out")
    found: dict[str, Image] = {}
    passed_over: Counter[str] = Counter()
    for place in places:
        images, beside = _in_store(place) if isinstance(place, Remote) else _on_disk(place, leave_out)
        passed_over += beside
        for one in images:
            other = found.setdefault(one.name, one)
            if other.place != one.place:
                raise UsageError(f"two images are called {one.name}: rename one")
    return Images(list(found.values()), passed_over=passed_over)


def _on_disk(path: Path, leave_out: Sequence[Path]) -> tuple[list[Image], Counter[str]]:
    if not path.is_dir() and os.path.lexists(path) and path.suffix.lower() not in SUFFIXES:
        images, lists = ", ".join(sorted(SUFFIXES)), ", ".join(sorted(LISTS))
        raise UsageError(f"{path} is neither an image ({images}) nor a list of images ({lists})")
    found = find_images([os.fspath(path)], leave_out)
    return [Image(one.name, one.path) for one in found.images], found.passed_over


def _in_store(place: Remote) -> tuple[list[Image], Counter[str]]:
    kind = place.kind()
    if kind == fs.FileType.NotFound:
        raise UsageError(f"{place.uri}: there is no such prefix or object")
    if kind == fs.FileType.File:
        return [Image(place.uri, place)], Counter()
    below = len(place.path) + 1
    paths = sorted(path for path in place.files(recursive=True) if not _is_hidden(PurePosixPath(path[below:])))
    taken = [path for path in paths if ending(path) in SUFFIXES]
    passed_over = Counter(ending(path) for path in paths if ending(path) not in SUFFIXES)
    if not taken:
        beside = f"; {told(passed_over)}" if passed_over else ""
        said = f"no images in there (objects that end in {', '.join(sorted(SUFFIXES))}){beside}"
        raise UsageError(f"{place.uri}: {said}")
    return [Image(place.base + path, Remote(place.store, path, place.base)) for path in taken], passed_over


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _listed(place: Path | Remote, root: str | None) -> Images:
    try:
        content = place.read_bytes() if isinstance(place, Path) else place.read()
    except FileNotFoundError:
        hint = nearest_path(place) if isinstance(place, Path) else ""
        raise UsageError(f"{_shown(place)}: there is no such file{hint}") from None
    except OSError as error:
        raise UsageError(f"{_shown(place)} cannot be read: {error.strerror}") from None
    listed = read_list(_shown(place), _suffix(place), content)
    base = (place.parent if isinstance(place, Path) else place.parent()) if root is None else locate(root)
    images = [_entry(entry, base) for entry in listed.entries]
    local = [one.place for one in images if isinstance(one.place, Path)]
    if len(local) == len(images) and not any(os.path.lexists(path) for path in local):
        where = f"; their names begin at {base}" if root is None else ""
        raise UsageError(
            f"{_shown(place)}: none of its images is there, not even {local[0]}{where}; say where: --images"
        )
    return Images(images, listed.categories)


def _entry(entry: Entry, base: Path | Remote) -> Image:
    name = entry.name
    if "://" in name or name.startswith("/"):
        place = locate(name)
    elif isinstance(base, Path):
        place = base / name
    else:
        place = _below(base, name)
    return Image(name, place, entry.image_id)


def _below(base: Remote, name: str) -> Remote:
    """Raises UsageError for what leads out of the bucket."""
    path, bucket = posixpath.normpath(f"{base.path}/{name}"), base.path.partition("/")[0]
    if not path.startswith(f"{bucket}/"):
        raise UsageError(f"{name} leads out of the bucket {bucket}, from {base.uri}: name it {base.base}BUCKET/KEY")
    return Remote(base.store, path, base.base)


def _suffix(place: Path | Remote) -> str:
    """Of its name, in small letters; none of a folder."""
    if isinstance(place, Path):
        return "" if place.is_dir() else place.suffix.lower()
    return PurePosixPath(place.path).suffix.lower()


def _shown(place: Path | Remote) -> str:
    return str(place) if isinstance(place, Path) else place.uri


def _read_file(path: Path) -> Data:
    """In memory, or mapped where it is large. Raises UnreadableError and StoreError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("it is no file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= IN_MEMORY:
                return file.read()
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        raise UnreadableError((error.strerror or str(error)).lower()) from None
