"""Reads what a client accepts: the quality values of headers such as Accept and Accept-Encoding."""

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


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return 1.0
