"""Outputs come to the host in one piece, and memory there is used again."""

from __future__ import annotations

import numpy as np
import torch

from model.network.serving.packing import Field, HostMemory, pack, unpack


def test_bytes_come_back_as_they_were() -> None:
    outputs = (torch.rand(2, 3), torch.tensor([True, False, True]), torch.arange(4), torch.rand(5).half())
    fields = tuple(Field(str(i), tuple(each.shape), each.dtype) for i, each in enumerate(outputs))
    arrays = unpack(pack(outputs), fields)
    for name, expected in enumerate(outputs):
        np.testing.assert_array_equal(arrays[str(name)], expected.numpy())


def test_memory_grows_and_is_used_again() -> None:
    memory = HostMemory(pinned=False)
    small = memory.room("images", (2, 3), torch.int64)
    assert memory.room("sizes", (2, 3), torch.int64).data_ptr() != small.data_ptr()
    large = memory.room("images", (20, 3), torch.float32)
    assert (large.shape, large.dtype) == ((20, 3), torch.float32)
    assert memory.room("images", (1, 5), torch.uint8).data_ptr() == large.data_ptr()
