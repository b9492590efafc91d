"""`maskserve train --help`: every field of a configuration as a flag, with the default that would hold."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.config import TrainConfig, recipe_names

MANUAL: Final = """\
Trains a Mask R-CNN and publishes a bundle that the server loads.

usage: maskserve train [--recipe NAME] [--FIELD VALUE]...
       maskserve train [--recipe NAME] --help    this manual, with that recipe's defaults

Without arguments: a small run on generated shapes. A recipe is a YAML file of the fields below; flags win over it."""


_PLAIN: Final = re.compile(r"[^\s=,\"'{}\[\]]+")
"""A name that needs no JSON around it."""


def manual(recipe: str, config: TrainConfig) -> str:
    """The text of `--help`, where `recipe` would be run and says `config`."""
    wrapper = textwrap.TextWrapper(100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    wrapper.break_on_hyphens = wrapper.break_long_words = False  # so that values can be copied
    known = f"{', '.join(recipe_names())}, or the path of a .yaml file (default: {recipe})"
    parts = [MANUAL, "", "  --recipe NAME", *wrapper.wrap(known)]
    group = ""
    for name, field in flags(TrainConfig):
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            parts += ["", group]
        parts.append(f"  --{name} {_kind(field.annotation)}")
        default: object = reduce(getattr, name.split("."), config)
        notes = [] if default == "" else [f"default: {as_argument(default)}"]
        if (example := example_of(field)) is not None:
            notes.append(f"for example: --{name} {as_argument(example)}")
        parts += wrapper.wrap(f"{field.description}" + (f" ({'; '.join(notes)})" if notes else ""))
    return "\n".join(parts)


def flags(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The fields that hold a value, by dotted name: those of the configuration itself, then those of its groups."""
    groups: list[tuple[str, type[BaseModel]]] = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            groups.append((f"{prefix}{name}.", field.annotation))
        else:
            yield prefix + name, field
    for name, group in groups:
        yield from flags(group, name)


def example_of(field: FieldInfo) -> Any:
    """A value of a field that takes several; None for others."""
    if not {tuple, dict} & {get_origin(one) for one in _alternatives(field.annotation)}:
        return None
    return field.examples[0] if field.examples else field.default


def as_argument(value: object) -> str:
    """As it is written behind a flag, in a shell."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and not any(isinstance(one, tuple) for one in value):
        return ",".join(map(as_argument, value))
    if isinstance(value, dict) and value and all(map(_PLAIN.fullmatch, [*value, *value.values()])):
        return shlex.quote(",".join(f"{old}={new}" for old, new in value.items()))
    if isinstance(value, (tuple, dict)):
        return shlex.quote(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return shlex.quote(str(value))


def optional(field: FieldInfo) -> bool:
    """Whether `none` is one of its values."""
    return NoneType in _alternatives(field.annotation)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = get_args(annotation) if NoneType in get_args(annotation) else (annotation,)
    return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in union)


def _kind(annotation: Any) -> str:
    """What may follow a flag."""
    *alternatives, last = _alternatives(annotation)
    if last is NoneType:
        return f"{_kind(alternatives[0])} or none"
    if get_origin(last) is Literal:
        return "{" + ",".join(map(str, get_args(last))) + "}"
    if get_origin(last) is tuple:
        items = [_kind(item) for item in get_args(last) if item is not Ellipsis]
        items += ["..."] if Ellipsis in get_args(last) else []
        inner = ",".join(items)
        return f"[[{inner.replace(',...', ',...],...', 1)}]" if "," in items[0] else inner
    if get_origin(last) is dict:
        return "OLD=NEW,..."
    return {bool: "{true,false}", int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(last, "TEXT")
