"""Reads what a client accepts: the quality values of headers such as Accept and Accept-Encoding (RFC 9110, 12.4.2)."""

from __future__ import annotations

import re

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def qualities(header: str) -> dict[str, float]:
    """How much each name in the header is wanted, 0 to 1 (RFC 9110, section 12.4.2); names in small letters.

    A name without a quality has 1; one whose quality is none has 0.
    """
    found = {}
    for entry in header.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        found[name] = _quality(parameters)
    return found


def preference(accept: str, media_type: str) -> tuple[float, int]:
    """How much an Accept header wants a media type, 0 to 1, and how exactly it names it: 2, by image/* 1, by */* 0.

    The most exact entry counts (RFC 9110, section 12.5.1). Of two types that are wanted as much, the one that is named
    more exactly is meant.
    """
    wanted = qualities(accept)
    kind, _, _ = media_type.partition("/")
    for exactness, name in ((2, media_type), (1, f"{kind}/*"), (0, "*/*")):
        if name in wanted:
            return wanted[name], exactness if wanted[name] else 0
    return 0.0, 0


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return 1.0
