"""What an administrator may ask of the models that are served."""

from __future__ import annotations

from typing import Protocol


class Changes(Protocol):
    """A process's `Reloader`, or the same for each process of a group. All of them raise Problem."""

    async def renew(self, name: str, version: int | None = None) -> None:
        """Look for new versions of a model now, and load what was unloaded."""

    async def promote(self, name: str, version: int) -> None:
        """Pin a version."""

    async def unpin(self, name: str) -> None:
        """Let the newest version answer again."""

    async def unload(self, name: str, version: int | None) -> None:
        """Stop serving a model, or one version of it."""
