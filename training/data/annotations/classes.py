"""Classes by name: choose, rename, merge, and make splits agree."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model.console.arguments import did_you_mean
from training.data.annotations.dataset import Category, Dataset, DatasetError
from training.data.annotations.fields import class_name
from training.data.annotations.packed import PackedAnnotations


def rename_classes(data: Dataset, names: Mapping[str, str]) -> Dataset:
    """The dataset with classes called otherwise, {old: new}. Classes that get one name become one class.

    Raises DatasetError for an old name that the dataset does not have.
    """
    _check_known(data, names)
    renamed = [replace(category, name=names.get(category.name, category.name)) for category in data.categories]
    first = {category.name: category for category in reversed(renamed)}
    kept = [category for category in renamed if first[category.name] is category]
    return _relabel(data, [category.name for category in renamed], kept)


def select_classes(data: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with the named classes alone, in their old order; all images stay, also those without objects.

    Raises DatasetError for a name that the dataset does not have, and for no name at all.
    """
    if not names:
        raise DatasetError(f"choose at least one class of {data.name}: {', '.join(data.class_names)}")
    _check_known(data, names)
    return _relabel(data, data.class_names, [category for category in data.categories if category.name in names])


def change_classes(data: Dataset, *, rename: Mapping[str, str], classes: Sequence[str]) -> Dataset:
    """Renames classes, then keeps those in `classes`, which are new names, or all of them if it is empty.

    The labels follow the dataset's order, not that of `classes`. Raises DatasetError for a class that is not there.
    """
    renamed = rename_classes(data, rename) if rename else data
    return select_classes(renamed, classes) if classes else renamed


def change_splits(splits: Sequence[Dataset], *, rename: Mapping[str, str], classes: Sequence[str]) -> list[Dataset]:
    """`change_classes` for the splits of one dataset; a class is renamed in those that have it.

    Raises DatasetError for a class to rename that none has, and for one to keep that any lacks.
    """
    found = {name for data in splits for name in data.class_names}
    changed = []
    for data in splits:
        own = {old: new for old, new in rename.items() if old in data.class_names or old not in found}
        changed.append(change_classes(data, rename=own, classes=classes))
    return changed


def add_class_flags(parser: argparse.ArgumentParser) -> None:
    """--classes and --rename, whose values are what `change_classes` takes."""
    parser.add_argument(
        "--classes", type=_names, default=(), help="keep these classes alone, after renaming: person,car"
    )
    parser.add_argument("--rename", type=_pairs, default={}, help="call classes otherwise: bicycle=bike,car=vehicle")


def align_classes(splits: Sequence[Dataset]) -> list[Dataset]:
    """The splits of one dataset with the same classes in the same order, by name: those of the first split that has
    them all, else all of them, sorted. Formats list only what occurs, and files written one by one other orders.

    Nothing changes where they agree.
    """
    if len({data.class_names for data in splits}) < 2:
        return list(splits)
    names = {name for data in splits for name in data.class_names}
    categories = next((data.categories for data in splits if set(data.class_names) == names), None)
    if categories is None:
        known = {category.name: category for data in reversed(splits) for category in data.categories}
        categories = tuple(replace(known[name], id=id_) for id_, name in enumerate(sorted(names), 1))
    return [_relabel(data, data.class_names, categories) for data in splits]


def order_classes(data: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with its classes in the order of `names`, where they are those, but for others without objects, which
    another split has listed; otherwise as it is."""
    found = {data.class_names[label - 1] for one in data.annotations for label in np.unique(one.labels).tolist()}
    if data.class_names == tuple(names) or not found <= set(names) <= set(data.class_names):
        return data
    known = {category.name: category for category in data.categories}
    return _relabel(data, data.class_names, [known[name] for name in names])


def _relabel(data: Dataset, names: Sequence[str], categories: Sequence[Category]) -> Dataset:
    """Objects go to the category of their class's name, names[label - 1]; those that have none there are dropped."""
    labels = {category.name: label for label, category in enumerate(categories, 1)}
    lookup = np.array([0, *(labels.get(name, 0) for name in names)], np.int64)
    annotations = PackedAnnotations.pack(data.annotations).relabel(lookup)
    return replace(data, categories=tuple(categories), annotations=annotations)


def _check_known(data: Dataset, names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in data.class_names]
    if unknown:
        hints = [did_you_mean(name, data.class_names, otherwise="") for name in unknown]
        hint = " ".join(filter(None, hints)) or f"it has {', '.join(data.class_names)}"
        raise DatasetError(f"{data.name} has no class {', '.join(unknown)}; {hint}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := class_name(part)))


def _pairs(text: str) -> dict[str, str]:
    """OLD=NEW,... or, as a recipe has it, a JSON object."""
    if text.lstrip().startswith("{"):
        return _json_pairs(text)
    pairs: dict[str, str] = {}
    for pair in _names(text):
        old, _, new = (class_name(part) for part in pair.partition("="))
        if not old or not new:
            raise argparse.ArgumentTypeError(f"'{pair}' is not OLD=NEW")
        pairs[old] = new
    return pairs


def _json_pairs(text: str) -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object of old and new names; write OLD=NEW") from None
