"""Images a second of `maskserve predict-many`, beside those of the bare engine on images that are prepared already.

    python -m benchmarks.many
    python -m benchmarks.many --models models --data DIR --images 64 --rounds 5 --json many.json

Both compute the same images, each seen whole, with the same engine at the same thresholds, in turns. Decoding, masks as
RLE and the files that are written are predict-many's alone: its share of the engine's rate is what they cost where they
don't overlap. It is wanted to be 95 %, of one process on an idle machine: a run beside other work says that it is not
valid. With what it does by default it takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import alternate, table, write_json
from model.console.arguments import whole
from model.runtime.preprocess import Prepared, prepare_file, stack
from service.client.command.inputs import SUFFIXES
from service.models.catalog import ServedModel
from service.models.loading import load_one
from service.predict_many.display import Display
from service.predict_many.plan import Listing, Plan
from service.predict_many.predicting import Run, predict_shards
from service.predict_many.sources import Images, find
from service.predict_many.starting import Loaded, prepare_process
from service.predict_many.stores import LocalFolder
from service.prediction.parameters import PredictParameters
from service.settings.settings import EMBEDDED_MODELS, Settings

SAMPLES = Path(__file__).resolve().parents[1] / "model" / "samples" / "nuclei"
PACKAGES = ("onnxruntime-gpu", "pyarrow")
PARAMETERS = PredictParameters(tile="off")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description="predict-many beside its engine.")
    parser.add_argument("--models", type=Path, default=EMBEDDED_MODELS, help="model repository")
    parser.add_argument("--data", type=Path, default=SAMPLES, help="folder of images, taken again and again")
    parser.add_argument("--images", type=whole(1), default=32, help="images a round")
    parser.add_argument("--rounds", type=whole(1), default=5, help="how often")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    prepare_process()
    settings = Settings(models=options.models)
    catalog = load_one(settings, None, print)
    loaded = Loaded(catalog, PARAMETERS.options(catalog.find()), settings)
    with tempfile.TemporaryDirectory() as folder:
        images = _images(options.data, Path(folder) / "images", options.images)
        batches = _batches(catalog.find(), images)
        numbers = itertools.count()
        found = alternate(
            {
                "engine": lambda: _compute(loaded, batches),
                "predict-many": lambda: _predict(loaded, images, Path(folder) / str(next(numbers))),
            },
            reference="engine",
            rounds=options.rounds,
            details={"images": options.images, "model": str(catalog.find())},
        )
    print(table(found))
    rates = {timing.name: options.images / timing.seconds.median for timing in found.timings}
    print(", ".join(f"{name} {rate:.2f} images/s" for name, rate in rates.items()), end="; ")
    print(f"{found['predict-many'].speedup:.1%} of the engine's rate")
    if options.json is not None:
        write_json(options.json, found, packages=PACKAGES)
    return 0


def _images(data: Path, folder: Path, count: int) -> Images:
    """So many copies of the folder's images, in turns."""
    folder.mkdir()
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in SUFFIXES)
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        shutil.copy(file, folder / f"{number:05}{file.suffix}")
    return find([str(folder)], None)


def _batches(model: ServedModel, images: Images) -> list[list[Prepared]]:
    """All images as the engine takes them, in batches as the service makes them where many wait."""
    buckets: defaultdict[tuple[int, int], list[Prepared]] = defaultdict(list)
    for one in images.images:
        assert isinstance(one.place, Path)
        prepared = prepare_file(one.place.read_bytes(), model.manifest.preprocessing)
        buckets[prepared.bucket].append(prepared)
    size = model.lane.max_batch_size
    return [some[first : first + size] for some in buckets.values() for first in range(0, len(some), size)]


def _compute(loaded: Loaded, batches: Sequence[Sequence[Prepared]]) -> None:
    engine, threshold = loaded.catalog.find().engines[0], loaded.options.score_threshold
    for batch in batches:
        pixels, sizes = stack(batch)
        engine.run(pixels, sizes, np.full(len(batch), threshold, np.float32))


def _predict(loaded: Loaded, images: Images, folder: Path) -> None:
    plan = Plan.of(Listing.of(images), loaded.catalog.find(), PARAMETERS, loaded.settings, None)
    folder.mkdir()
    run = Run(plan, images, LocalFolder(folder), loaded)
    with Display(len(images), 0, quiet=True) as display:
        asyncio.run(predict_shards(run, range(plan.shards), display))


if __name__ == "__main__":
    raise SystemExit(main())
