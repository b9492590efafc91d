"""An environment for each peer, with torch borrowed from the project's own.

    python -m benchmarks.peers.setup                        all of them
    python -m benchmarks.peers.setup litserve bentoml       these

They lie in `$XDG_CACHE_HOME/maskserve/peers` (`~/.cache/...`), or in `--folder`. One that is complete is left alone;
`--again` makes it anew. FastAPI needs none. TorchServe needs Java 17; Triton's Python stub needs the system's Python
(`--system-python`), since it links that one's library.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

SYSTEM_PYTHON = Path("/usr/bin/python3.11")


@dataclass(frozen=True, slots=True)
class Environment:
    """What one peer needs.

    alone: packages installed without what they ask for, which is then installed but for `never_mind`'s versions.
    """

    packages: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    never_mind: tuple[str, ...] = ()
    system_python: bool = False


ENVIRONMENTS = {
    "litserve": Environment(("litserve==0.2.19",)),
    # Asks for a certifi newer than there may be.
    "bentoml": Environment(alone=("bentoml==1.4.40",), never_mind=("certifi",)),
    "torchserve": Environment(("torchserve==0.12.0", "torch-model-archiver==0.12.0")),
    "triton": Environment(("nvidia-pytriton==0.7.0", "numpy==1.26.4"), system_python=True),
}


def default_folder() -> Path:
    """Where the environments lie unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskserve" / "peers"


def make(name: str, folder: Path, system_python: Path) -> None:
    """Make the environment of one peer as `folder`/NAME; a file `complete` in it says that it is."""
    wanted = ENVIRONMENTS[name]
    home = folder / name
    if home.exists():
        shutil.rmtree(home)
    base = str(system_python) if wanted.system_python else sys.executable
    subprocess.run([base, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    if wanted.packages:
        _install(python, *wanted.packages)
    for package in wanted.alone:
        _install(python, "--no-deps", package)
        _install(python, *_requirements(_site_packages(python), package.partition("==")[0], wanted.never_mind))
    # Last: pip would take what is borrowed for installed.
    (_site_packages(python) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-c", "import torch, torchvision, pycocotools, PIL"], check=True)
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "list", "--local", "--format", "freeze"],
        check=True,
        capture_output=True,
        text=True,
    )
    (home / "complete").write_text(frozen.stdout)


def _install(python: Path, *what: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *what], check=True)


def _site_packages(python: Path) -> Path:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())


def _requirements(site_packages: Path, package: str, never_mind: Sequence[str]) -> list[str]:
    """What an installed package asks for, without the versions of `never_mind`."""
    (distribution,) = distributions(name=package, path=[str(site_packages)])
    asked = [line for line in distribution.requires or [] if "extra ==" not in line]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in asked]
    return [name if name in never_mind else line for name, line in zip(names, asked, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes what is missing; the exit status is 1 when one could not be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.setup", description="Environments of the peers.")
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"of {', '.join(ENVIRONMENTS)}; default: all")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where they lie")
    parser.add_argument("--system-python", type=Path, default=SYSTEM_PYTHON, help="the Python for Triton")
    parser.add_argument("--again", action="store_true", help="make those anew that are there")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - ENVIRONMENTS.keys()):
        parser.error(f"no such peer: {', '.join(unknown)}")
    failed = False
    for name in options.names or ENVIRONMENTS:
        if (options.folder / name / "complete").is_file() and not options.again:
            print(f"{name}: is there")
            continue
        try:
            make(name, options.folder, options.system_python)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name}: made")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
