"""A bundle's weights as torchvision's users keep them.

    python -m benchmarks.peers.prepare --model model/embedded/nuclei/1 --output FOLDER

FOLDER gets `weights.pth`, a state_dict that loads strictly into torchvision's own MaskRCNN, and `architecture.json`,
what its constructor is to be told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.network import ARCHITECTURE, WEIGHTS
from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, BundleError, open_bundle


class NotTorchvisionsError(Exception):
    """The network has parts that torchvision alone cannot build."""


def prepare(bundle: Bundle, folder: Path) -> None:
    """Write both files into `folder`. Raises NotTorchvisionsError, or DamagedFile as `load_network` does."""
    _check(bundle.manifest.architecture)
    import torch

    from model.network.weights import load_network

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(load_network(bundle).state_dict(), folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(bundle.manifest.architecture.model_dump_json(indent=2) + "\n")


def _check(config: ArchitectureConfig) -> None:
    wanted = {
        "task": "masks",
        "features": "fpn",
        "fpn_norm": False,
        "roi_pooling": "align",
        "box_head": "mlp",
        "mask_loss": "sigmoid",
        "mask_classes": "specific",
        "mask_head": "fcn",
        "mask_head_norm": False,
    }
    other = [f"{name} {getattr(config, name)}" for name, value in wanted.items() if getattr(config, name) != value]
    if not config.backbone.startswith("res"):
        other.append(f"backbone {config.backbone}")
    if config.norm == "group_norm":
        other.append("norm group_norm")
    if other:
        raise NotTorchvisionsError(
            f"the peers serve a plain Mask R-CNN on a ResNet and FPN; this bundle has {', '.join(other)}. "
            f"Give another one with --model"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files; the exit status is 1 when it can't."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.prepare", description="Weights for the peers.")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="a folder NAME/VERSION")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to write")
    options = parser.parse_args(arguments)
    try:
        prepare(open_bundle(options.model), options.output)
    except (BundleError, NotTorchvisionsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output / WEIGHTS} and {ARCHITECTURE} beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
