"""The short form of the fuzzers: valid inputs, and the first that become of them."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.resilience.fuzz import inputs
from tests.resilience.targets import TARGETS

COUNT = 1500


@pytest.mark.parametrize("name", TARGETS)
def test_only_the_errors_come_out_that_are_meant_to(name: str) -> None:
    target = TARGETS[name]
    for number, data in enumerate(islice(inputs(target, seed=0), COUNT)):
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{name}, input {number}: {data[:200]!r}") from error
