"""A worker of a cluster, without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.client.command.inputs import UsageError
from service.predict_many.command_line import read_arguments
from service.predict_many.plan import Listing
from service.predict_many.sources import find
from service.predict_many.worker import Order, Worker


def test_images_that_a_node_does_not_see_are_no_unreadable_files(repository: Path, images: Path) -> None:
    """They would be rows with an error, and kept."""
    asked = read_arguments([str(images), "--output", "anywhere", "--models", str(repository)])
    order = Order(asked, Listing.of(find([str(images)], None)), [Path("/nowhere/a.png")], False, False)
    with pytest.raises(UsageError, match=r"has no /nowhere/a\.png: images must be on all nodes"):
        asyncio.run(Worker(order, 1).load())
