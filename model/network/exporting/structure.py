"""What the exporter's graph of a network depends on: all of the network but the values of its weights."""

from __future__ import annotations

import hashlib
import pickle  # nosec B403  # nothing is unpickled
from collections.abc import Sequence
from io import BytesIO

import torch
from torch import Tensor, nn


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under their names, those outside of the state_dict and shared ones too."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def structure(module: nn.Module, unread: Sequence[object] = ()) -> bytes:
    """A digest of the module without its weights' values: classes, attributes, the weights' names, shapes and dtypes.

    `unread` are parts that the computation does not read, and which may hold what a run has left in them.

    Modules with the same digest compute the same operations, and a module that is built in the same way has the same
    digest in every process. Raises what pickle raises for a module that cannot be pickled, ValueError for one that
    holds itself.
    """
    pickled = BytesIO()
    pickler = _Pickler(pickled, named_tensors(module), unread)
    pickler.fast = True  # else it notes which values are one object: of two equal words, it depends on who wrote them
    pickler.dump(module)
    return hashlib.sha256(pickled.getbuffer()).digest()


class _Pickler(pickle.Pickler):
    """Writes a tensor by its name, shape and dtype where it is a weight, and with its values elsewhere."""

    def __init__(self, file: BytesIO, weights: dict[str, Tensor], unread: Sequence[object]) -> None:
        super().__init__(file)
        self._unread = {id(part) for part in unread}
        self._names = {id(tensor): name for name, tensor in weights.items()}

    def persistent_id(self, value: object) -> object:
        if id(value) in self._unread:
            return ("unread",)
        if isinstance(value, set | frozenset):
            return ("set", sorted(map(repr, value)))  # their order is the process's own
        if not isinstance(value, Tensor):
            return None
        described = (tuple(value.shape), str(value.dtype))
        if id(value) in self._names:
            return ("weight", self._names[id(value)], *described)
        # A tensor's own pickle holds addresses of this process.
        return ("constant", value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes(), *described)
