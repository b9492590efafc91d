"""Trains variants of one recipe on the same data with the same seeds, and says what each choice is worth.

    maskserve ablate --vary architecture.roi_pooling=align,pool
    maskserve ablate --recipe nuclei --data DIR --val 0.2 --vary architecture.mask_loss=sigmoid,softmax --seeds 0 1 2
    maskserve ablate --annotations instances.json --images DIR --vary optimizer.rate=0.01,0.02
    maskserve ablate --vary A=1,2 --vary B=3,4 --grid --schedule.iterations 500

Further flags go to every training run. Writes OUTPUT/VARIANT/seed-N (a run's folder each), OUTPUT/table.md and
OUTPUT/results.json. Started again, it keeps the runs that are finished and goes on with those that are not.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from rich.console import Console

from model.console.arguments import Parser
from model.console.running import interruptible
from training.checkpoint import CheckpointError, load_checkpoint
from training.command_line import parse_train_config, require_writable, stop, unbroken_console
from training.config import TrainConfig, flat_fields
from training.data.formats.locate import require_there
from training.data.loading.source import generate, named
from training.distributed import require_device
from training.evaluation.ablation_table import Run, Variant, ablation_table, table_markdown
from training.evaluation.validation import main_kind
from training.loop.run_log import read_metrics

UNTRAINED: Final = frozenset(
    {
        *("name", "license", "output", "repository", "publish", "publish_if"),
        *("export_half", "export_int8", "export_f16", "export_references"),
        *("resume", "loggers", "log_every", "checkpoint_every", "validation.samples", "workers"),
        *("data", "seed"),  # which ablate gives to every run itself
    }
)
"""Fields that change nothing of what is trained."""

TRAINING: Final = "training.train"
"""The command that a run is, by name: it knows nothing of this one."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One field of TrainConfig, dotted, and the values that it takes; the first is the baseline's."""

    field: str
    values: tuple[str, ...]


class Results(BaseModel):
    """What OUTPUT/results.json holds."""

    command: list[str]
    kind: str
    runs: list[Run]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, prints the table; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, flags = _parser().parse_known_args(arguments)
    try:
        variants = list(combine([parse_factor(text) for text in options.vary], grid=options.grid))
    except ValueError as error:
        stop(str(error))
    require_writable("--output", options.output)
    common = ["--recipe", options.recipe, *flags]
    # Everything is checked before the first hour of training.
    configs = {variant: parse_train_config([*common, *variant.flags()]) for variant in variants}
    try:
        require_different(configs)
        for config in configs.values():
            require_device(config.device)
        shared = _shared_data(configs[variants[0]], options.output)
    except ValueError as error:
        stop(str(error))
    console = Console(stderr=True)
    kind = main_kind(configs[variants[0]].architecture.task)
    runs = []
    for seed, variant in itertools.product(options.seeds, variants):
        folder = options.output / variant.folder / f"seed-{seed}"
        flags_of_run = [*common, *variant.flags(), *shared, "--seed", str(seed), "--output", str(folder)]
        figures = finished(folder, configs[variant])
        if figures is None:
            console.print(f"training {variant.name}, seed {seed}: {folder}/log", highlight=False, soft_wrap=True)
            train(flags_of_run, folder)
            figures = finished(folder, configs[variant])
        if figures is None:
            stop(f"{folder} holds no final AP: the data needs a validation split")
        runs.append(Run(settings=dict(variant.settings), seed=seed, figures=figures))
    results = Results(command=["maskserve", "ablate", *arguments], kind=kind, runs=runs)
    (options.output / "results.json").write_text(results.model_dump_json(indent=2) + "\n")
    (options.output / "table.md").write_text(table_markdown(runs, kind))
    unbroken_console().print(ablation_table(runs, kind))
    return 0


def _shared_data(config: TrainConfig, output: Path) -> list[str]:
    """The flags of the data that all runs share: none where the configuration names them, else what is generated once.
    Raises DatasetError where what is named is not there."""
    if (origin := named(config)) is not None:
        require_there(origin)
        return []
    data = output / "data"
    if not data.is_dir():
        generate(data, config.architecture.task, seed=0)
    return ["--data", str(data)]


def parse_factor(text: str) -> Factor:
    """FIELD=VALUE,VALUE... Raises ValueError where there are not two values."""
    field, _, values = text.partition("=")
    found = tuple(value for value in values.split(",") if value)
    if not field or len(found) < 2:
        raise ValueError(f"--vary {text}: give FIELD=BASELINE,OTHER, such as architecture.roi_pooling=align,pool")
    if len(set(found)) < len(found):
        raise ValueError(f"--vary {text} names a value twice")
    return Factor(field, found)


def combine(factors: Sequence[Factor], *, grid: bool) -> Iterator[Variant]:
    """The baseline first: every factor's first value. Then one change at a time or, with `grid`, all combinations."""
    baseline = {factor.field: factor.values[0] for factor in factors}
    if len(baseline) < len(factors):
        raise ValueError("--vary names a field twice: give all its values at once")
    if grid:
        for values in itertools.product(*(factor.values for factor in factors)):
            yield Variant(tuple(zip(baseline, values, strict=True)))
        return
    yield Variant(tuple(baseline.items()))
    for factor in factors:
        for value in factor.values[1:]:
            yield Variant(tuple({**baseline, factor.field: value}.items()))


def require_different(configs: Mapping[Variant, TrainConfig]) -> None:
    """Raises ValueError where two variants would train the same."""
    known: dict[frozenset[tuple[str, str]], Variant] = {}
    for variant, config in configs.items():
        trained = frozenset(item for item in flat_fields(config) if item[0] not in UNTRAINED)
        if (other := known.setdefault(trained, variant)) != variant:
            raise ValueError(f"--vary: {other.name} and {variant.name} would be the same training twice")


def train(flags: Sequence[str], folder: Path) -> None:
    """One run in a process of its own, which leaves nothing behind for the next; its output goes to folder/log.

    It is forked from a process that has imported everything and computed nothing: the first run alone waits for that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([TRAINING])
    process = context.Process(target=_train, args=([*flags, "--publish", "false"], folder / "log"))
    process.start()
    process.join()
    status = process.exitcode
    if status == 2 and os.listdir(folder) == ["log"]:  # refused: it has not begun, and leaves nothing
        said = _last_line(folder / "log").removeprefix("error: ")
        (folder / "log").unlink()
        folder.rmdir()
        with suppress(OSError):  # another seed's run is in there
            folder.parent.rmdir()
        stop(said)
    if status != 0:
        stop(f"training failed with status {status}; its last words in {folder}/log: {_last_line(folder / 'log')}")


def _train(flags: Sequence[str], log: Path) -> None:
    """All that a run's process does."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(interruptible(partial(import_module(TRAINING).main, flags)))


def finished(folder: Path, config: TrainConfig) -> dict[str, float] | None:
    """The run's figures of its last evaluation, such as {"mask/AP": 0.31}; None while it is not finished."""
    try:
        checkpoint = load_checkpoint(folder / "checkpoints" / "last.pt")
    except CheckpointError:
        return None
    patience = config.validation.patience
    stopped_early = patience is not None and checkpoint.without_gain >= patience
    if checkpoint.iteration < config.schedule.iterations and not stopped_early:
        return None
    last = {name: points[-1] for name, points in read_metrics(folder / "metrics.csv").items()}
    figures = {
        name.removeprefix("val/"): value
        for name, (iteration, value) in last.items()
        if name.startswith("val/") and iteration == checkpoint.iteration
    }
    return figures or None


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "(none)"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="maskserve ablate",
        description="Trains variants of a recipe on the same data and seeds, and compares them. "
        "Further flags (see maskserve train --help), such as --data DIR, go to every run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="FIELD=BASELINE,OTHER",
        help="a field of the configuration and its values, the baseline's first; may be given several times",
    )
    parser.add_argument("--grid", action="store_true", help="all combinations, instead of one change at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run of each variant for each")
    parser.add_argument("--recipe", default="shapes", help="what all variants share")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), metavar="DIR", help="folder of the runs")
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
