"""A server with the embedded model, and more versions of that model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.runtime.bundles.bundle import ManifestDraft, open_bundle, publish_bundle

EMBEDDED = Path(__file__).resolve().parents[3] / "model" / "embedded" / "nuclei"
KEPT = 2
"""Versions that stay in the repository."""


@contextmanager
def serving(models: Path) -> Iterator[tuple[int, str]]:
    """The process's id and its URL."""
    with running(models, "service", subprocess.DEVNULL) as (process, url):
        yield process.pid, url


@contextmanager
def running(models: Path, module: str, pipes: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of this module, whose stdin and stdout are `pipes`, and its URL."""
    command = [sys.executable, "-m", module, "--port", "0", "--models", str(models), "--poll-interval-ms", "0"]
    # Into a file: a pipe that nobody reads is full after what libtiff says of some damaged pictures.
    with (
        tempfile.NamedTemporaryFile("r") as said,
        open(said.name, "w") as stderr,
        subprocess.Popen(command, stdin=pipes, stdout=pipes, stderr=stderr, text=True) as process,
    ):
        try:
            while (ready := re.search(r"ready at (http://\S+)", Path(said.name).read_text())) is None:
                assert process.poll() is None, Path(said.name).read_text()
                time.sleep(0.1)
            yield process, ready[1]
        finally:
            process.terminate()


def publish(models: Path) -> int:
    """The embedded model as another version; older ones than `KEPT` go."""
    source = open_bundle(EMBEDDED / "1", verify=False)
    known = {name: getattr(source.manifest, name) for name in ManifestDraft.model_fields}
    with tempfile.TemporaryDirectory() as staging:
        for name in source.manifest.files:
            (Path(staging) / name).symlink_to(source.file(name))
        version = publish_bundle(Path(staging), ManifestDraft(**known), models, "nuclei").manifest.version
    shutil.rmtree(models / "nuclei" / str(version - KEPT), ignore_errors=True)
    return version
