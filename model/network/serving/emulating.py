"""What half precision makes of a network, found out on a CPU.

A GPU's matrix units multiply float16 numbers, add them up in float32 and round what comes out to float16. So do the
convolutions and linear layers here; everything else computes on a CPU in float16 as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.network.build import Detector
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.serving.engine import StaticEngine
from model.network.serving.place import Host

LARGEST_HALF: Final = torch.finfo(torch.float16).max
"""65,504: what is larger becomes infinite in float16."""

_ATEN: Final = torch.ops.aten
_SUMMING: Final = frozenset(
    {
        *(_ATEN.convolution, _ATEN.conv2d, _ATEN.conv_transpose2d),
        *(_ATEN.linear, _ATEN.addmm, _ATEN.mm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.matmul),
    }
)


class EmulatedHalf(StaticEngine):
    """The engine `cuda` in half precision, on the CPU: for what it answers, not for how fast. `model` stays as it is.

    What overflows is computed again in float32, as on a GPU. It takes batches and images as they come: what a GPU pads
    them to changes no answer.
    """

    def __init__(self, model: Detector) -> None:
        self._rounding = _Rounding()
        exact = InferenceGraph(model).eval()
        super().__init__(halve(model), Host(), exact=exact, forward=self._rounded)

    @property
    def head_room(self) -> float:
        """How many times as large the numbers between two layers could be before one becomes infinite, by all that was
        computed so far. 0 where one did."""
        return LARGEST_HALF / self._rounding.largest if self._rounding.largest else LARGEST_HALF

    def _rounded(
        self, images: Tensor, sizes: Tensor, thresholds: Tensor, canvases: Tensor | None
    ) -> tuple[Tensor, ...]:
        with self._rounding:
            return self.graph(images, sizes, thresholds, canvases)  # type: ignore[no-any-return]  # a torch module's call


class _Rounding(TorchDispatchMode):
    """Computes as above, and notes the largest number that became float16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says no types
        self.largest = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket not in _SUMMING or not any(map(_is_half, args)):
            answer = function(*args, **kwargs)
            if _is_half(answer) and not function.is_view:
                self._note(answer)
            return answer
        answer = function(*(part.float() if _is_half(part) else part for part in args), **kwargs)
        self._note(answer)
        return answer.half()

    def _note(self, values: Tensor) -> None:
        if values.numel():
            largest = float(values.abs().amax())
            self.largest = max(self.largest, math.inf if math.isnan(largest) else largest)


def _is_half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float16
