"""How to install what is missing, in the one spelling of the documents: from the clone, without activating anything."""

from __future__ import annotations


def install(extra: str = "") -> str:
    """The command that installs the package with an extra of pyproject.toml, quoted, for shells expand brackets."""
    return f".venv/bin/pip install '.[{extra}]'" if extra else ".venv/bin/pip install ."
