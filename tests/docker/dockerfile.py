"""Reads docker/Dockerfile as far as the tests ask: its stages, each with its instructions."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.service.harness import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TARGETS = ("serve-cpu", "serve-cuda", "serve-cuda-torch", "train")


@dataclass(frozen=True)
class Stage:
    """One FROM to the next. `instructions`: (keyword, rest of the line) each."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]


def read_stages() -> dict[str, Stage]:
    """By name, in their order; what stands before the first FROM is the stage ""."""
    stages = {"": Stage("", "")}
    for keyword, rest in _instructions(DOCKERFILE.read_text()):
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base)
        else:
            stages[next(reversed(stages))].instructions.append((keyword, rest))
    return stages


def lineage(name: str) -> list[Stage]:
    """What a stage's image is made of, the base first."""
    stages = read_stages()
    found = [stages[name]]
    while found[0].base in stages:
        found.insert(0, stages[found[0].base])
    return found


def last(name: str, keyword: str) -> str:
    """What holds in an image of an instruction that later ones replace, such as USER."""
    return [rest for stage in lineage(name) for rest in stage.all(keyword)][-1]


def last_list(name: str, keyword: str) -> list[str]:
    """The same of an instruction in exec form. Raises ValueError if it is in shell form."""
    words = json.loads(last(name, keyword).removeprefix("CMD "))
    assert isinstance(words, list)
    return words


def variables(name: str, keyword: str = "ENV") -> dict[str, str]:
    """The environment of an image, or its LABELs."""
    words = [word for stage in lineage(name) for rest in stage.all(keyword) for word in shlex.split(rest)]
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            rest = rest if keyword != "HEALTHCHECK" else rest[rest.index("CMD") :]
            yield keyword, " ".join(rest.split()) if keyword == "FROM" else rest.strip()
