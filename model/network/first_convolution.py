"""The convolution that sees the image, for networks of other channels than red, green and blue."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

FIRST_WEIGHTS: Final = ("backbone.body.conv1.weight", "backbone.body.0.0.weight")
"""Its name in a detector's state_dict, with a ResNet and with a MobileNet."""


def take_channels(classifier: Any, channels: int) -> None:
    """A first convolution for so many channels in place of a torchvision classifier's own, as randomly filled as that.

    To load the weights into torchvision's class, do the same there.
    """
    holder, name = (classifier.features[0], "0") if hasattr(classifier, "features") else (classifier, "conv1")
    old = getattr(holder, name)
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(holder, name, new)


def adapted(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight, [O, S, k, k], for other channels: [O, channels, k, k].

    To one channel it is the sum, which answers to gray as the convolution answered to gray in all of its channels. To
    more, the weights are taken in turn and scaled by S / channels, so that what is alike in all channels is answered as
    strongly as before, and the layers behind see values of the scale that they have learned.
    """
    sources = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [channel % sources for channel in range(channels)]] * (sources / channels)
