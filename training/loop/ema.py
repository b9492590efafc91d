"""An exponential moving average of the weights, which is evaluated and published in place of the weights themselves."""

from __future__ import annotations

import copy
import itertools

import torch

from model.network.build import Detector


class WeightAverage:
    """`model` holds the average: a copy of the network in training, of the same names, on the same device.

    Buffers in floating point, which are batch norm's running mean and variance, are averaged like the weights: the
    latest ones are those of the latest weights and would not fit averaged ones. Counters are copied.
    """

    def __init__(self, model: Detector, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Detector, updates: int) -> None:
        """Takes in the weights of `model` after an optimizer step; `updates` is the number of updates before this one.

        The decay rises as (1 + updates) / (10 + updates) to its value, so that random first weights are soon forgotten.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        # parameters() and buffers() give a module that two heads share once, unlike a state_dict.
        averages = itertools.chain(self.model.parameters(), self.model.buffers())
        latest = itertools.chain(model.parameters(), model.buffers())
        pairs = list(zip(averages, latest, strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        # All at once: one by one they are hundreds of small kernels for a GPU.
        torch._foreach_lerp_([average for average, _ in floating], [value for _, value in floating], 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
