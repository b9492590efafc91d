"""How many examples are tried: in the suite few, always the same; with `--hypothesis-profile long` many new ones."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("short", max_examples=40, derandomize=True, database=None, deadline=None)
settings.register_profile("long", max_examples=3000, database=None, deadline=None, print_blob=True)
settings.load_profile("short")  # the command line's is loaded afterwards, where this folder is named there
