"""The images and annotations of a whole dataset in a few flat arrays, which worker processes share.

As Python objects they would cost each worker hundreds of bytes a mask; here a worker has a few dozen objects in all.
`PackedImages` and `PackedAnnotations` are read like the tuples they replace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.records import Annotations, ImageRecord
from training.data.annotations.segmentations import PackedSegmentations
from training.data.annotations.shared import SharedArrays


class PackedAnnotations(Sequence[Annotations]):
    """The annotations of all images. store[i] is what image i has, as views."""

    def __init__(self, objects: Annotations, offsets: NDArray[np.int64]) -> None:
        """objects: those of all images, one image after the other; image i's are offsets[i] to offsets[i + 1]."""
        arrays = {
            "ids": objects.ids,
            "xywh": objects.xywh,
            "labels": objects.labels,
            "crowd": objects.crowd,
            "area": objects.area,
            "offsets": offsets,
        }
        if objects.keypoints is not None:
            arrays["keypoints"] = objects.keypoints
        self._arrays = SharedArrays(**arrays)
        self._segmentations = PackedSegmentations.pack(objects.segmentations)

    @classmethod
    def pack(cls, images: Sequence[Annotations]) -> PackedAnnotations:
        """Packs the annotations of each image; packed ones stay as they are.

        Raises ValueError where some images have keypoints, if only none of them, and others have not.
        """
        if isinstance(images, PackedAnnotations):
            return images
        keypoints = [objects.keypoints for objects in images if objects.keypoints is not None]
        if len(keypoints) not in (0, len(images)):
            raise ValueError(
                f"{len(keypoints)} of {len(images)} images have keypoints: give the others arrays [N, K, 3] too"
            )
        together = Annotations(
            ids=np.concatenate([np.empty(0, np.int64), *(objects.ids for objects in images)]),
            xywh=np.concatenate([np.empty((0, 4)), *(objects.xywh for objects in images)]),
            labels=np.concatenate([np.empty(0, np.int64), *(objects.labels for objects in images)]),
            crowd=np.concatenate([np.empty(0, np.bool_), *(objects.crowd for objects in images)]),
            area=np.concatenate([np.empty(0), *(objects.area for objects in images)]),
            segmentations=PackedSegmentations.pack(chain.from_iterable(objects.segmentations for objects in images)),
            keypoints=np.concatenate(keypoints) if keypoints else None,
        )
        return cls(together, offsets_of(map(len, images)))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._arrays.nbytes + self._segmentations.nbytes

    def content(self) -> Iterator[bytes]:
        """What is annotated, as bytes: equal where everything but the ids is."""
        for name in ("offsets", "xywh", "labels", "crowd", "area", "keypoints"):
            if name in self._arrays:
                yield name.encode()
                yield self._arrays[name].tobytes()
        yield from self._segmentations.content()

    def relabel(self, lookup: NDArray[np.int64]) -> PackedAnnotations:
        """With label lookup[label] for `label`; objects whose new label is 0 are dropped."""
        objects, offsets = self._between(0, len(self._arrays["ids"])), self._arrays["offsets"]
        labels = lookup[objects.labels]
        kept = np.flatnonzero(labels)
        if len(kept) < len(labels):
            objects, offsets = objects.select(kept), np.searchsorted(kept, offsets)
        else:
            objects = replace(objects, segmentations=self._segmentations)
        return PackedAnnotations(replace(objects, labels=labels[kept]), offsets)

    def __len__(self) -> int:
        return len(self._arrays["offsets"]) - 1

    @overload
    def __getitem__(self, index: int) -> Annotations: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Annotations, ...]: ...
    def __getitem__(self, index: int | slice) -> Annotations | tuple[Annotations, ...]:
        image = range(len(self))[index]
        if isinstance(image, range):
            return tuple(self[number] for number in image)
        start, stop = self._arrays["offsets"][image : image + 2].tolist()
        return self._between(start, stop)

    def _between(self, start: int, stop: int) -> Annotations:
        arrays, rows = self._arrays, slice(start, stop)
        return Annotations(
            ids=arrays["ids"][rows],
            xywh=arrays["xywh"][rows],
            labels=arrays["labels"][rows],
            crowd=arrays["crowd"][rows],
            area=arrays["area"][rows],
            segmentations=self._segmentations.between(start, stop),
            keypoints=arrays["keypoints"][rows] if "keypoints" in arrays else None,
        )


class PackedImages(Sequence[ImageRecord]):
    """The image records of a dataset."""

    def __init__(self, arrays: SharedArrays) -> None:
        """ids: int64 [N]. sizes: int64 [N, 2], (width, height). texts: uint8, the path, the file and the text_id of
        one image after the other; text t is texts[text_offsets[t]:text_offsets[t + 1]].
        """
        self._arrays = arrays

    @classmethod
    def pack(cls, records: Sequence[ImageRecord]) -> PackedImages:
        """Packs records; packed ones stay as they are."""
        if isinstance(records, PackedImages):
            return records
        # file names of Linux and of JSON may hold halves of a surrogate pair, which plain UTF-8 refuses
        texts = [text.encode("utf-8", "surrogatepass") for r in records for text in (str(r.path), r.file, r.text_id)]
        return cls(
            SharedArrays(
                ids=np.array([record.id for record in records], np.int64),
                sizes=np.array([(record.width, record.height) for record in records], np.int64).reshape(-1, 2),
                texts=np.frombuffer(b"".join(texts), np.uint8),
                text_offsets=offsets_of(map(len, texts)),
            )
        )

    def __len__(self) -> int:
        return len(self._arrays["ids"])

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImageRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | tuple[ImageRecord, ...]:
        image = range(len(self))[index]
        if isinstance(image, range):
            return tuple(self[number] for number in image)
        width, height = self._arrays["sizes"][image].tolist()
        path, file, text_id = (self._text(3 * image + number) for number in range(3))
        return ImageRecord(int(self._arrays["ids"][image]), Path(path), width, height, file, text_id)

    def _text(self, number: int) -> str:
        start, stop = self._arrays["text_offsets"][number : number + 2]
        return self._arrays["texts"][start:stop].tobytes().decode("utf-8", "surrogatepass")


def offsets_of(lengths: Iterable[int]) -> NDArray[np.int64]:
    """int64 [N + 1]: where each of N parts starts in what they make together, and its end."""
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)])
