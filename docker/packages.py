"""Install the Python packages of one image into its virtual environment; the Dockerfile runs it.

    python packages.py /opt/venv serve-cpu [EXTRA ...]

What is needed stands in pyproject.toml, in which versions in constraints.txt and docker/constraints.txt. A package
that they do not pin stops the build: the next one would get another version of it. Needs nothing but Python and pip.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

TRAIN: Final = "train"
SERVE_TORCH: Final = "serve-cuda-torch"
EXTRAS: Final = {
    "serve-cpu": ["serve", "openvino"],
    "serve-cuda": ["serve", "cuda"],
    SERVE_TORCH: ["serve", "cuda", "torch"],
    TRAIN: ["train", "cuda"],
}
"""Which extras of pyproject.toml an image is made of."""

CONSTRAINTS: Final = (Path("constraints.txt"), Path("docker/constraints.txt"))

UNUSED: Final = (
    "**/tests",
    *(f"**/*.{kind}" for kind in ("h", "hpp", "pxd", "pyi", "pyx")),
    # Of NumPy: what builds extensions.
    *(f"numpy/{part}" for part in ("_core/lib", "distutils", "f2py", "random/lib")),
    # Of Pygments: the languages that it colours. rich imports the rest, and colours no code here.
    *(
        f"pygments/lexers/{part}"
        for part in ("[a-z]*.py", "_*_builtins.py", "__pycache__/[a-z]*", "__pycache__/_*_builtins.*")
    ),
    "nvidia/*/include",
    "nvidia/**/*.a",
    # Of ONNX Runtime: what makes and converts networks.
    *(f"onnxruntime/{package}" for package in ("datasets", "quantization", "tools", "transformers")),
    # Of OpenVINO: other devices, other formats, and what builds C++ against it.
    "openvino/include",
    "openvino/cmake",
    "openvino/tools",
    "openvino/torch",
    *(f"openvino/frontend/{format}" for format in ("jax", "paddle", "pytorch", "tensorflow")),
    "openvino/libs/cache.json",
    "openvino/libs/libopenvino_c.so.*",
    *(f"openvino/libs/libopenvino_{plugin}_plugin.so" for plugin in ("auto", "hetero", "intel_gpu", "intel_npu")),
    *(
        f"openvino/libs/libopenvino_{format}_frontend.so.*"
        for format in ("gguf", "jax", "paddle", "pytorch", "tensorflow", "tensorflow_lite")
    ),
)
"""What serving never opens, below site-packages."""

UNUSED_BY_ONNX_RUNTIME: Final = ("nvidia/cudnn/lib/libcudnn_adv.so.*",)
"""Recurrent networks and attention; loaded when they are first called. torch's own paths to it were not tried."""

UNUSED_BY_TORCH: Final = (
    "torch/bin/protoc*",
    "torch/include",
    "torch/share",
    "nvidia/cu13/lib/libcusolverMg.so.*",  # one problem on several GPUs; no other library names it
)
"""What builds C++ against torch, and what it never loads."""

REMOVED: Final = {SERVE_TORCH: ["triton"]}
"""Packages that others ask for and an image is better without. triton calls a C compiler, which no image has: what
torch gives to it would fail, and is computed otherwise where there is no triton."""

BILL: Final = "sbom.cdx.json"
"""What is in the virtual environment, as CycloneDX; in its folder."""

BILL_OF: Final = "cyclonedx-bom"
"""The package that writes it, which the image does not keep."""

SECRETS: Final = {"PIP_CONFIG_FILE": Path("/run/secrets/pip"), "PIP_CERT": Path("/run/secrets/ca")}
"""Build secrets for machines whose way to the package index is their own; both may be missing."""


def requirements(project: Mapping[str, Any], target: str, extras: Iterable[str] = ()) -> list[str]:
    """What to install for `target` and its further `extras`, as lines of a requirements file.

    project: the table [project] of pyproject.toml.
    """
    lines = list(project["dependencies"])
    for extra in [*EXTRAS[target], *extras]:
        lines += _of_extra(project, extra)
    if target == "serve-cpu":  # the same release without the 280 MB of its CUDA kernels
        lines = [line for line in lines if not line.startswith("onnxruntime")] + ["onnxruntime"]
    return lines


def _of_extra(project: Mapping[str, Any], name: str) -> Iterator[str]:
    """An extra's lines; where it names extras of the project itself, theirs."""
    for line in project["optional-dependencies"][name]:
        own = re.fullmatch(rf"{project['name']}\[(.*)\]", line)
        if own is None:
            yield line
            continue
        for extra in own[1].split(","):
            yield from _of_extra(project, extra.strip())


def read_pins(lines: Iterable[str]) -> dict[str, str]:
    """Versions by normalized name from lines NAME==VERSION; other lines pin nothing."""
    parts = (line.split("#")[0].strip().partition("==") for line in lines)
    return {normalized(name): version for name, equals, version in parts if equals}


def unpinned(installed: Mapping[str, str], pins: Mapping[str, str]) -> list[str]:
    """Installed packages, as NAME==VERSION, of which `pins` does not have this version."""
    return [f"{name}=={version}" for name, version in sorted(installed.items()) if pins.get(name) != version]


def unused(target: str) -> tuple[str, ...]:
    """Patterns of what a target's image does without, below site-packages. Training keeps everything: it exports and
    quantizes, and whoever adds a compiler to it may compile."""
    if target == TRAIN:
        return ()
    return UNUSED + (UNUSED_BY_TORCH if target == SERVE_TORCH else UNUSED_BY_ONNX_RUNTIME)


def write_bill(tools: Path, venv: Path) -> None:
    """Write `BILL` into an environment, by the `BILL_OF` of another: the same for the same packages, to the byte."""
    command = [tools / "bin" / "python", "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--pyproject", "pyproject.toml", "--output-file", venv / BILL, venv / "bin" / "python"]
    subprocess.run(command, check=True)


def normalized(name: str) -> str:
    """A package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: Sequence[str]) -> int:
    """Installs, checks and trims; returns the exit status."""
    venv, target, *extras = arguments
    if target not in EXTRAS:
        print(f"there is no target {target!r}; choose {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    pins = read_pins(line for file in CONSTRAINTS for line in file.read_text().splitlines())
    wanted = requirements(project, target, extras)
    Path("requirements.txt").write_text("\n".join(wanted) + "\n")
    secrets = {name: str(file) for name, file in SECRETS.items() if file.is_file()}
    environment = {**os.environ, **secrets, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # The base image's: the virtual environment has no pip, since serving needs none.
    pip = [f"{sys.base_prefix}/bin/python3", "-m", "pip", "--python", f"{venv}/bin/python"]
    # Wheels only: there is no compiler.
    install = ["install", "--no-cache-dir", "--only-binary", ":all:", "--quiet"]
    constraints = [word for file in CONSTRAINTS for word in ("--constraint", str(file))]
    subprocess.run([*pip, *install, *constraints, "--requirement", "requirements.txt"], env=environment, check=True)
    listed = subprocess.run([*pip, "list", "--format", "json"], env=environment, check=True, stdout=subprocess.PIPE)
    installed = {normalized(package["name"]): package["version"] for package in json.loads(listed.stdout)}
    if loose := unpinned(installed, {**pins, **read_pins(wanted)}):
        print(f"not pinned: {', '.join(loose)}; add them to constraints.txt", file=sys.stderr)
        return 1
    if target in REMOVED:
        subprocess.run([*pip, "uninstall", "--yes", "--quiet", *REMOVED[target]], env=environment, check=True)
    with tempfile.TemporaryDirectory() as tools:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tools], check=True)
        to_tools = [*pip[:-1], f"{tools}/bin/python"]
        subprocess.run([*to_tools, *install, *constraints, BILL_OF], env=environment, check=True)
        write_bill(Path(tools), Path(venv))
    for pattern in unused(target):
        for path in list(Path(venv).glob(f"lib/python*/site-packages/{pattern}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
