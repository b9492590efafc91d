"""How many channels images and networks have. Nothing is imported: the client reads this too."""

from __future__ import annotations

from typing import Final

RGB_CHANNELS: Final = 3
MOST_CHANNELS: Final = 16
"""That a network takes."""


def is_rgb(channels: int) -> bool:
    """Whether a network takes what nearly all take. Then files say nothing of it, as before there were others."""
    return channels == RGB_CHANNELS
