"""Which images the command line names, in which order, and how each is read."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import posixpath
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pyarrow import fs

from model.console.arguments import nearest_path
from model.runtime.images.data import Data
from service.client.command.coco_ids import ImageId
from service.client.command.inputs import SUFFIXES, Beside, Input, UsageError, ending, find_images, identities
from service.http.spool import IN_MEMORY
from service.predict_many.lists import LISTS, Entry, read_list
from service.predict_many.shards import FILES, FOLDER
from service.predict_many.stores import Remote, StoreError, has_scheme, locate, require_key

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
    """All of them. `categories` are the ids of COCO results by class name; None: the label ids. `remarks` are sentences
    about what is not taken."""

    images: Sequence[Image]
    categories: Mapping[str, int] | None = None
    remarks: Sequence[str] = ()

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
    if len(places) > 1:  # which a shell's pattern names, once there are results
        places = [one for one in places if isinstance(one, Remote) or not _is_of_a_run(one, leave_out)] or places
    lists = [place for place in places if _suffix(place) in LISTS]
    if lists and len(places) > 1:
        raise UsageError(f"{_shown(lists[0])} is a list of images: give it alone")
    if lists:
        return _listed(lists[0], root)
    if root is not None:
        raise UsageError("--images is where the names of a list begin, and no list is given: leave it out")
    found: dict[str, Image] = {}
    names: dict[str, str] = {}
    beside = Beside()
    identity_of = _identities()
    for place in places:
        images, others = _in_store(place) if isinstance(place, Remote) else _on_disk(place, leave_out)
        beside.add(others)
        for one in images:
            identity = identity_of(one.place)
            found.setdefault(identity, one)
            is_other = isinstance(one.place, Remote) and found[identity].place != one.place  # of another store
            if is_other or names.setdefault(found[identity].name, identity) != identity:
                raise UsageError(f"two images are called {one.name}: rename one")
    return Images(list(found.values()), remarks=[*beside.remarks(), *_left_out(beside.results, found)])


def _left_out(folders: Sequence[Path], taken: Collection[str]) -> Iterator[str]:
    """What is said of folders of results with images in them that are not among `taken`, by their identities."""
    identity_of = identities()
    for folder in folders:
        if count := sum(identity_of(one.path) not in taken for one in _images_in(folder)):
            images = "1 image" if count == 1 else f"{count} images"
            yield f"{images} in {folder} left out, where results go: name that folder alone for them"


def _on_disk(path: Path, leave_out: Sequence[Path]) -> tuple[list[Image], Beside]:
    if not path.is_dir() and os.path.lexists(path) and path.suffix.lower() not in SUFFIXES:
        images, lists = ", ".join(sorted(SUFFIXES)), ", ".join(sorted(LISTS))
        raise UsageError(f"{path} is neither an image ({images}) nor a list of images ({lists})")
    found = find_images([os.fspath(path)], leave_out, lambda file: _is_of_a_run(file, leave_out))
    return [Image(one.name, one.path) for one in found.images], found.beside


def _is_of_a_run(path: Path, folders: Sequence[Path]) -> bool:
    """Whether an earlier run wrote it into one of the folders of results, or it is such a folder, without images."""
    if path.name in FILES or path.name == FOLDER or path.parent.name == FOLDER:
        above = path.parent.parent if path.parent.name == FOLDER else path.parent
        return os.path.realpath(above) in map(os.path.realpath, folders)
    return path.is_dir() and os.path.realpath(path) in map(os.path.realpath, folders) and not _images_in(path)


def _images_in(folder: Path) -> Sequence[Input]:
    """As far as it can be read."""
    try:
        return find_images([os.fspath(folder)]).images
    except UsageError:
        return ()


def _in_store(place: Remote) -> tuple[list[Image], Beside]:
    kind = place.kind()
    if kind == fs.FileType.NotFound:
        raise UsageError(f"{place.uri}: there is no such prefix or object")
    if kind == fs.FileType.File:
        return [Image(place.uri, place)], Beside()
    below = len(place.path) + 1
    paths = sorted(path for path in place.files(recursive=True) if not _is_hidden(PurePosixPath(path[below:])))
    taken = [path for path in paths if ending(path) in SUFFIXES]
    beside = Beside()
    beside.files.update(ending(path) for path in paths if ending(path) not in SUFFIXES)
    if not taken:
        remarks = "".join(f"; {one}" for one in beside.remarks())
        said = f"no images in there (objects that end in {', '.join(sorted(SUFFIXES))}){remarks}"
        raise UsageError(f"{place.uri}: {said}")
    return [Image(place.base + path, Remote(place.store, path, place.base)) for path in taken], beside


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
    _require_apart(_shown(place), images)
    local = [one.place for one in images if isinstance(one.place, Path)]
    if len(local) == len(images) and not any(os.path.lexists(path) for path in local):
        where = f"; their names begin at {base}" if root is None else ""
        raise UsageError(
            f"{_shown(place)}: none of its images is there, not even {local[0]}{where}; say where: --images"
        )
    return Images(images, listed.categories)


def _require_apart(where: str, images: Sequence[Image]) -> None:
    """Raises UsageError for two names of one file."""
    identity_of, names = _identities(), dict[str, str]()
    for one in images:
        if (other := names.setdefault(identity_of(one.place), one.name)) != one.name:
            raise UsageError(f"{where} has {other} and {one.name}, which are one file: name each image once")


def _identities() -> Callable[[Path | Remote], str]:
    """What gives a place one text, however it is spelled."""
    of_file = identities()
    return lambda place: place.uri if isinstance(place, Remote) else of_file(place)


def _entry(entry: Entry, base: Path | Remote) -> Image:
    name = entry.name
    if has_scheme(name) or name.startswith("/"):
        place = locate(name)
    elif isinstance(base, Path):
        place = base / name
        if "\\" in name and not os.path.lexists(place):  # as Windows' tools write them
            place = base / name.replace("\\", "/")
    else:
        place = _below(base, name)
    return Image(name, place, entry.image_id)


def _below(base: Remote, name: str) -> Remote:
    """Raises UsageError for what leads out of the bucket, and for what no store takes."""
    require_key(name)
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
