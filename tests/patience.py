"""How long a test waits for what must happen before it says that it never did."""

PATIENCE = 120.0
"""Seconds. What happens ends the wait, so none is lost; a busy machine is slow, not wrong."""
