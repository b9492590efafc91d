"""Processes forked from one that has imported everything. Nothing here imports much, for workers read it too."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def forkserver() -> ForkServerContext:
    """Its server is one for all tests of a process: whoever starts it first prepares it for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.prepared"])
    return context
