"""The client as `pip install .` gives it: without the packages of the server and of training."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import orjson
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from model.runtime.kernels import rle

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

ALONE = """
import sys
from importlib.metadata import packages_distributions

from packaging.utils import canonicalize_name

class Missing:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=top)

needed = set(sys.argv[1].split(","))
ours = {"model", "service"}
installed = packages_distributions().items()
BLOCKED = {module for module, names in installed if not needed & set(map(canonicalize_name, names))} - ours
sys.meta_path.insert(0, Missing)
"""
"""Blocks every package that is installed, but for those that are named."""

ANSWER_IS_READ = """
import orjson
from pathlib import Path
from service.client import Client, Prediction
from service.client.command.main import main
from service.client.command.overlays import write_overlay
from service.client.command.progress import Display
import pydantic
from model.runtime.bundles.manifest import Manifest

image, answers, picture = map(Path, sys.argv[2:])
with Display(1, bar=True) as display:
    display.advance(failed=False)
for answer in orjson.loads(answers.read_bytes()):
    found = Prediction.from_json(answer)
    print(found.mask_areas().tolist(), [mask.counts.decode() for mask in found.masks], found.masks_array().sum())
    write_overlay(image, found, {1: "nucleus"}, picture)
"""


def needed() -> set[str]:
    """The packages that the client asks for, and what those bring, by name."""
    pending, found = [Requirement(line) for line in PROJECT["dependencies"]], set()
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            pending += map(Requirement, requires(one.name) or ())
    return found


def answer(masks: list[object]) -> dict[str, object]:
    return {
        "model": {"name": "nuclei", "version": 1},
        "image": {"width": 40, "height": 30},
        "boxes": [[5, 5, 25, 20]],
        "labels": ["nucleus"],
        "label_ids": [1],
        "scores": [0.9],
        "masks": masks,
        "timing_ms": {},
    }


def test_the_client_reads_every_form_of_answer_without_the_server_s_packages(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 5:25] = True
    encoded = rle.encode_bitmap(mask)
    polygon = [[[5, 5, 5, 20, 25, 20, 25, 5]]]
    forms: list[object] = [
        {"size": [30, 40], "counts": encoded.counts.decode()},
        {"size": [30, 40], "counts": rle.to_uncompressed(encoded)},
        polygon,
    ]
    (tmp_path / "answers.json").write_bytes(orjson.dumps([answer([form]) for form in forms]))
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    files = [str(tmp_path / name) for name in ("image.png", "answers.json", "picture.png")]
    command = [sys.executable, "-c", ALONE + ANSWER_IS_READ, ",".join(needed()), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"[300] ['{encoded.counts.decode()}'] 300"] * 3
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (40, 30)


def test_the_client_asks_for_no_package_of_the_server() -> None:
    assert not needed() & {
        "fastapi",
        "numba",
        "onnxruntime",
        "onnxruntime-gpu",
        "torch",
        "uvicorn",
        "pydantic-settings",
    }
