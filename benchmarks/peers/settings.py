"""What a peer's server is told, in environment variables: every one of them hands these down to its workers.

Nothing here or in `network` needs anything but torch, torchvision, Pillow and pycocotools: it runs in the peers'
environments too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

BATCH = 4
"""Most images in a batch of a server that is set up as well as we can."""
DELAY_SECONDS = 0.01
"""How long such a server waits for a batch to fill."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Where to listen, what to serve, and how.

    model: the folder that `prepare` wrote; None is the null model, which detects the same in every image.
    documented: leave everything as the server's documentation does, instead of setting it up as well as we can.
    """

    port: int
    model: Path | None
    documented: bool = False

    @classmethod
    def from_environment(cls) -> PeerSettings:
        """What `environment` says. KeyError outside of a benchmark."""
        model = os.environ["PEER_MODEL"]
        documented = os.environ["PEER_DOCUMENTED"] == "1"
        return cls(int(os.environ["PEER_PORT"]), Path(model) if model else None, documented)

    def environment(self) -> dict[str, str]:
        """Variables for the server's process."""
        return {
            "PEER_PORT": str(self.port),
            "PEER_MODEL": "" if self.model is None else str(self.model),
            "PEER_DOCUMENTED": "1" if self.documented else "0",
        }
