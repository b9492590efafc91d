"""Where each image of a batch ends, so that its answer is that of its own canvas whatever else it is padded to.

In a canvas of its own size a network sees zeros beyond the end, repeats the last row and column for RoIAlign, and has
its anchors a side over the number of cells apart. In a larger one it sees, beyond the same end, what the layers made of
the padding. So here layers that look at their neighbors find zeros there, means are those of the canvas alone, anchors
are as far apart as in the canvas, and RoIs are pooled from features that end where their memory ends.

All of it has fixed shapes and waits for no values, so that it can be captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from model.network.graph.indexing import positions
from model.runtime.images.picture import Size

_CONVOLUTIONS: Final = (torch.conv2d, torch.cudnn_convolution_relu, torch.cudnn_convolution_add_relu)


class Canvases(TorchFunctionMode):
    """The canvases of a batch that lie in the top left corner of larger ones.

    sizes: int64 [B, 2], (height, width) of each image's canvas; padded: that of the batch; multiples of 32 pixels. The
    levels of the network are those sizes halved again and again, and rounded up.

    Inside a `with` of it torch's spatial layers compute as in each image's own canvas, within which alone their answers
    mean anything. What a layer is given is changed outside of the canvas, in place.
    """

    def __init__(self, sizes: Tensor, padded: Size) -> None:
        super().__init__()
        self._sizes, self._padded = sizes, padded
        self._outside: dict[Size, Tensor] = {}

    def extent(self, level: Tensor) -> Tensor:
        """int64 [B, 2]: rows and columns of a level [B, C, h, w] that are of the canvas."""
        steps = [2 ** _halvings(side, cells) for side, cells in zip(self._padded, level.shape[2:], strict=True)]
        height, width = self._sizes.unbind(1)
        return torch.stack([(side + step - 1) // step for side, step in zip((height, width), steps, strict=True)], 1)

    def spacing(self, level: Tensor) -> Tensor:
        """int64 [B, 2]: pixels from an anchor of a level to the next, down and to the right, as in torchvision."""
        return self._sizes // self.extent(level)

    def outside(self, level: Tensor) -> Tensor:
        """bool [B, 1, h, w]: the cells of a level [B, C, h, w] that are not of the canvas."""
        height, width = level.shape[2:]
        if (height, width) not in self._outside:
            rows, columns = self.extent(level).unsqueeze(1).unbind(2)
            below, beside = positions(level, 2) >= rows, positions(level, 3) >= columns
            self._outside[height, width] = (below.unsqueeze(2) | beside.unsqueeze(1)).unsqueeze(1)
        return self._outside[height, width]

    @property
    def moved(self) -> Tensor:
        """float32 [B, 2], (x, y) in pixels: by how much `at_the_end` moves each image."""
        height, width = (side - sizes for side, sizes in zip(self._padded, self._sizes.unbind(1), strict=True))
        return torch.stack((width, height), dim=1).to(torch.float32)

    def at_the_end(self, level: Tensor) -> Tensor:
        """A level [B, C, h, w] whose stride divides the canvas, channels-last, with each image's last row and column
        last; what comes before its first ones has no meaning.

        RoIAlign and RoIPool take the end of a tensor for that of the image.
        """
        height, width = level.shape[2:]
        rows, columns = self.extent(level).unsqueeze(1).unbind(2)
        row = (positions(level, 2) - (height - rows)).clamp(min=0)
        column = (positions(level, 3) - (width - columns)).clamp(min=0)
        image = positions(level, 0).unflatten(0, (-1, 1, 1))
        moved = level.permute(0, 2, 3, 1)[image, row.unsqueeze(2), column.unsqueeze(1)]
        return moved.permute(0, 3, 1, 2)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A ResNet's pooling of three cells in steps of two does not look beyond the end of an even number of them.
        if func in _CONVOLUTIONS and max(args[1].shape[2:]) > 1:
            args[0].masked_fill_(self.outside(args[0]), 0)
        elif func is F.adaptive_avg_pool2d:
            return self._mean(*args)
        elif func is F.group_norm:
            return self._group_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _mean(self, features: Tensor, output_size: int) -> Tensor:
        """[B, C, h, w] -> [B, C, 1, 1], of the canvas (a MobileNet's squeeze-and-excitation, Hu et al., eq. 2)."""
        assert output_size == 1, "torchvision's backbones average all there is"
        total = features.masked_fill(self.outside(features), 0).sum((2, 3), keepdim=True, dtype=torch.float32)
        mean: Tensor = total / self._cells(features)
        return mean.to(features.dtype)

    def _group_norm(self, features: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Mean and deviation are of the canvas (Group Normalization, Wu and He, eq. 1)."""
        outside = self.outside(features).unsqueeze(1)
        values = features.to(torch.float32).unflatten(1, (groups, -1))
        count = self._cells(features).unsqueeze(4) * values.shape[2]
        apart = values - values.masked_fill(outside, 0).sum((2, 3, 4), keepdim=True) / count
        variance = apart.masked_fill(outside, 0).square().sum((2, 3, 4), keepdim=True) / count
        scale, shift = (part.to(torch.float32).unflatten(0, (-1, 1, 1)) for part in (weight, bias))
        normalized: Tensor = (apart * (variance + eps).rsqrt()).flatten(1, 2) * scale + shift
        return normalized.to(features.dtype)

    def _cells(self, level: Tensor) -> Tensor:
        """int64 [B, 1, 1, 1]: how many of a level are of the canvas."""
        cells: Tensor = self.extent(level).prod(1).unflatten(0, (-1, 1, 1, 1))
        return cells


def _halvings(side: int, cells: int) -> int:
    """How often `side` is halved, and rounded up, until it is `cells`."""
    count = 0
    while side > cells:
        side, count = (side + 1) // 2, count + 1
    assert side == cells, "torchvision's backbones halve"
    return count
