"""Shows that wheels for everything exist on every machine that the README names: make platforms.

Resolves each set of extras, with the versions of constraints.txt, for each platform and Python, from the index that pip
is configured with; downloads metadata alone. uv does it, because `pip install --dry-run --platform` decides by the
markers of the machine that it runs on. Exit status: 0 all can be installed, or there is no network; 1 some cannot.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
UV: Final = Path(sys.executable).with_name("uv")
SERVING: Final = ("serve", "openvino")
EVERYTHING: Final = ((), SERVING, ("train", "test"))
PLATFORMS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "x86_64-manylinux_2_28": (*EVERYTHING, ("serve", "cuda")),
    "aarch64-manylinux_2_28": EVERYTHING,
    "aarch64-apple-darwin": ((), SERVING, ("train",)),  # of [test] pip builds gevent there, for Python 3.11
    "x86_64-apple-darwin": ((),),  # numba and torch have no wheels any more for Macs with Intel's processors
    "x86_64-pc-windows-msvc": EVERYTHING,
}
PYTHONS: Final = ("3.11", "3.13")
# The oldest macOS that ONNX Runtime has wheels for; uv would assume an older one.
ENVIRONMENT: Final = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}


def resolve(platform: str, python: str, extras: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The versions that would be installed, on stdout; or why none can be."""
    wanted = [word for extra in extras for word in ("--extra", extra)]
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "pyproject.toml", *wanted]
    command += ["--constraint", "constraints.txt", "--only-binary", ":all:"]
    command += ["--python-platform", platform, "--python-version", python, *_index()]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def _index() -> list[str]:
    """pip's own index as uv's, which reads no configuration of pip's."""
    ask = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return ["--default-index", found] if found else []


def main() -> int:
    failed = 0
    for platform, sets in PLATFORMS.items():
        for python in PYTHONS:
            for extras in sets:
                done = resolve(platform, python, extras)
                name = f"{platform}, Python {python}, maskserve[{','.join(extras)}]"
                if done.returncode == 0:
                    runtime = [line for line in done.stdout.splitlines() if line.startswith("onnxruntime")]
                    count = done.stdout.count("==")
                    print(f"ok    {name}: {' '.join([f'{count} packages', *runtime])}", flush=True)
                elif "failed to fetch" in done.stderr.lower():
                    print(f"skipped: no package index can be reached\n{done.stderr.strip()}")
                    return 0
                else:
                    failed += 1
                    print(f"wrong {name}:\n{done.stderr.strip()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
