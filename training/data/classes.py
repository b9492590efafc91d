"""Classes by name: choose, rename, merge, and make splits agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from training.data.coco import Category, CocoData, CocoError


def rename_classes(data: CocoData, names: Mapping[str, str]) -> CocoData:
    """The dataset with classes called otherwise, {old: new}. Classes that get one name become one class.

    Raises CocoError for an old name that the dataset does not have.
    """
    _check_known(data, names)
    renamed = [replace(category, name=names.get(category.name, category.name)) for category in data.categories]
    first = {category.name: category for category in reversed(renamed)}
    kept = [category for category in renamed if first[category.name] is category]
    return _relabel(data, [category.name for category in renamed], kept)


def select_classes(data: CocoData, names: Sequence[str]) -> CocoData:
    """The dataset with the named classes alone, in their old order; all images stay, also those without objects.

    Raises CocoError for a name that the dataset does not have, and for no name at all.
    """
    if not names:
        raise CocoError(f"choose at least one class of {data.name}: {', '.join(data.class_names)}")
    _check_known(data, names)
    return _relabel(data, data.class_names, [category for category in data.categories if category.name in names])


def align_classes(splits: Sequence[CocoData]) -> list[CocoData]:
    """The splits of one dataset with the classes of all of them, where formats list only what occurs: by name, sorted.

    Nothing changes where they agree.
    """
    if len({data.class_names for data in splits}) < 2:
        return list(splits)
    names = sorted({name for data in splits for name in data.class_names})
    categories = [Category(id_, name) for id_, name in enumerate(names, 1)]
    return [_relabel(data, data.class_names, categories) for data in splits]


def _relabel(data: CocoData, names: Sequence[str], categories: Sequence[Category]) -> CocoData:
    """Objects go to the category of their class's name, names[label - 1]; those that have none there are dropped."""
    labels = {category.name: label for label, category in enumerate(categories, 1)}
    lookup = np.array([0, *(labels.get(name, 0) for name in names)], np.int64)
    annotations = []
    for objects in data.annotations:
        kept = objects.select(lookup[objects.labels] > 0)
        annotations.append(replace(kept, labels=lookup[kept.labels]))
    return replace(data, categories=tuple(categories), annotations=tuple(annotations))


def _check_known(data: CocoData, names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in data.class_names]
    if unknown:
        raise CocoError(f"{data.name} has no class {', '.join(unknown)}; it has {', '.join(data.class_names)}")
