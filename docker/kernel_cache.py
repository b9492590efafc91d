"""The cache of compiled kernels in a container, which may write nothing but its /tmp.

numba takes a cache folder only if it can write into it, and otherwise compiles at every start. So the image's kernels
are copied to `NUMBA_CACHE_DIR`, a folder that can be written, before numba looks there. A kernel that is not in the
image is compiled and kept there until the container ends. `NUMBA_CACHE_LOCATOR_CLASSES` names this class to numba.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from numba.core.caching import UserProvidedCacheLocator

IN_IMAGE: Final = Path(__file__).parent / "kernels"
"""What numba's own locator wrote while the image was built."""


class ImageCacheLocator(UserProvidedCacheLocator):
    """numba's locator for `NUMBA_CACHE_DIR`, whose folders begin as copies of the image's."""

    def ensure_cache_path(self) -> None:
        """Raises OSError where nothing can be written; then the kernels are compiled and not cached."""
        folder = Path(self.get_cache_path())  # type: ignore[no-untyped-call]  # numba ships no types
        if not folder.is_dir() and (IN_IMAGE / folder.name).is_dir():
            _copy(IN_IMAGE / folder.name, folder)
        super().ensure_cache_path()  # type: ignore[no-untyped-call]  # as above


def _copy(source: Path, folder: Path) -> None:
    """All at once: another process, such as `--check` in the same container, must not find half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        copy = Path(name) / folder.name
        shutil.copytree(source, copy)
        try:
            os.rename(copy, folder)
        except OSError:
            if not folder.is_dir():  # nobody else was quicker
                raise
