"""What nobody should unpickle."""

from __future__ import annotations

from pathlib import Path


class Planted:
    """Pickled, it makes a file when it is unpickled: proof that code of the pickle ran."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._proof,)
