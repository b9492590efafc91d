from __future__ import annotations

from tests.service.conftest import repository, start_server  # noqa: F401  # fixtures, found by their names
