"""How long one request spent in each stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Seconds; each stage fills in its own. `queue` is all waiting: for a decode thread and for the network.

    `inference` is the whole run of the network, shared by the images of the batch. `postprocess` in an answer ends
    where the answer's text begins to be written.
    """

    decode: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        return {
            "decode": round(self.decode * 1e3, 3),
            "queue": round(self.queue * 1e3, 3),
            "inference": round(self.inference * 1e3, 3),
            "postprocess": round(self.postprocess * 1e3, 3),
        }
