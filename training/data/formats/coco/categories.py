"""The classes of a COCO file: what stands there twice is one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.data.annotations.dataset import Category, Problem
from training.data.annotations.fields import BrokenRecord, class_name, integer, text
from training.data.annotations.repair import Repairs


class Categories(NamedTuple):
    """kept: the classes, by rising id; labels: the label 1..C of every category id, of merged ones too."""

    kept: tuple[Category, ...]
    labels: Mapping[int, int]


def read_categories(
    records: list[Any], annotations: list[Any], problems: list[Problem], repairs: Repairs
) -> Categories:
    """Categories of one name (spaces around it aside) become one, that of the lowest id that has objects.

    Roboflow writes the name of the project as a class of its own, above the others (supercategory "none"); where it has
    no objects, it is left out.
    """
    found: dict[int, Category] = {}
    parents: dict[int, Any] = {}
    for index, record in enumerate(records):
        try:
            id_ = integer(record, "id", f"categories[{index}]")
            if id_ in found:
                raise BrokenRecord("duplicate id", f"category id {id_} is used before; this one is left out")
            names = record.get("keypoints")
            keypoints = tuple(str(name) for name in names) if isinstance(names, list) else ()
            name = class_name(text(record, "name", f"category {id_}"))
            if not name:
                raise BrokenRecord("wrong type", f"'name' of category {id_} is blank")
            found[id_] = Category(id_, name, keypoints)
            parents[id_] = record.get("supercategory")
        except BrokenRecord as broken:
            problems.append(Problem(broken.kind, broken.message))
    used = {_used(record) for record in annotations}
    root = _root(found, parents, used)
    if root is not None:
        repairs.note("root class left out", f"category {root} ('{found[root].name}') has no objects")
        del found[root]
    merged: dict[str, Category] = {}
    for id_ in sorted(found, key=lambda id_: (id_ not in used, id_)):
        first = merged.setdefault(found[id_].name, found[id_])
        if first.id != id_:
            repairs.note("classes of one name merged", f"categories {first.id} and {id_} are both '{first.name}'")
    kept = sorted(merged.values(), key=lambda category: category.id)
    label = {category.name: number for number, category in enumerate(kept, 1)}
    return Categories(tuple(kept), {id_: label[category.name] for id_, category in found.items()})


def _used(annotation: Any) -> int | None:
    try:
        return integer(annotation, "category_id", "")
    except BrokenRecord:  # named where it is read
        return None


def _root(found: Mapping[int, Category], parents: Mapping[int, Any], used: set[int | None]) -> int | None:
    """The class above all others, if it has no objects."""
    tops = [id_ for id_ in found if parents[id_] == "none"]
    if len(found) < 2 or len(tops) != 1 or tops[0] in used or tops[0] != min(found):
        return None
    others = {parents[id_] for id_ in found if id_ != tops[0]}
    return tops[0] if others <= {found[tops[0]].name, None, ""} else None
