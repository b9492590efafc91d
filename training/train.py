"""Train a Mask R-CNN and publish a bundle that the server loads.

    maskserve train                                   generated shapes, minutes on a CPU
    maskserve train --recipe nuclei --data DIR        a recipe on a COCO folder
    maskserve train --recipe my.yaml --optimizer.rate 0.01
    torchrun --nproc_per_node=2 -m training.train --recipe nuclei --data DIR     on two GPUs (or CPU processes)

Writes into the run's folder (`--output`, default runs/NAME): config.yaml, checkpoints/, metrics.csv, tensorboard/,
curves.png, samples/, and the published bundle under models/NAME/VERSION. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path

# First, for it says in one line which package of the others is missing.
from model.console.running import INTERRUPTED, interruptible

# isort: split
import torch
from torch import nn
from torch.utils.data import DataLoader

from model.console.arguments import this_command
from model.runtime.bundles.bundle import BundleError
from model.runtime.engines.cores import usable_cores
from training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    save_last,
)
from training.command_line import parse_train_config, require_repository, require_writable, resuming, stop
from training.config import TrainConfig, save_config
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.keypoint_names import flip_pairs
from training.data.augmentation.transforms import Augmentation
from training.data.loading.loader import Batch, Share, make_loader, workers_by_rule
from training.data.loading.samples import TrainingSet, UnreadableImage
from training.data.loading.source import DataStop, TrainingData, load_training_data, to_stderr
from training.distributed import Process, ProcessLost, join, noticing_loss
from training.evaluation.evaluation import KINDS, evaluate_detections
from training.evaluation.validation import detect_shared, eager_predictor, limits, main_kind
from training.loop.interruption import Interruption
from training.loop.optimization import scaled_rate
from training.loop.pictures import draw_curves, draw_samples
from training.loop.run_log import RunLog
from training.loop.state import State, seed_everything, snapshot, start, step_images
from training.loop.step import TrainingError, take_step
from training.loop.trackers import start_trackers
from training.loop.validation_losses import validation_losses
from training.publishing.checks import GateError
from training.publishing.comparison import NotBetter, incomparable, served_version
from training.publishing.provenance import published_bundle
from training.publishing.publish import publish_run
from training.starting.identity import require_one_run
from training.starting.resume import checkpoint_to_resume, set_aside

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOADER = "DataLoader worker"
"""What torch's RuntimeError speaks of when a process that loads images is gone."""


def setup(config: TrainConfig) -> tuple[TrainConfig, TrainingData, Process, Checkpoint | None]:
    """Complete configuration, checked data, this process, and the checkpoint to go on from; seeds set, nothing written
    but data that is generated."""
    require_writable("--output", config.run_folder)
    require_repository("--repository", config.model_repository)
    if config.data is not None and os.path.realpath(config.run_folder) == os.path.realpath(config.data):
        raise ValueError(f"--output {config.run_folder} is the dataset's folder: choose another for the run")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    process = join(name)
    # The same first weights in every process; from then on each iteration seeds anew.
    seed_everything(config.seed, 0, 0)
    require_one_run(config, process)
    resumed = checkpoint_to_resume(config, process)
    if process.first:
        data = load_training_data(config)
    held_out = process.agree(data.held_out if process.first else None)
    if not process.first:
        data = load_training_data(config, held_out, say=lambda line: None)
    architecture = config.architecture.model_copy(update={"num_classes": data.train.num_classes})
    if architecture.has_keypoints:
        architecture = architecture.model_copy(update={"num_keypoints": data.train.num_keypoints})
    return config.model_copy(update={"architecture": architecture}), data, process, resumed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the whole line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        config = parse_train_config(arguments)
        with noticing_loss(), unless_stopped(config):
            config, data, process, resumed = setup(config)
            state = start(config, data, process, resumed)
        begins = resumed is None
        del resumed  # its tensors would stay in memory
        if not process.first:
            return follow(config, data, state, process)
        if finished(config, state) and (end := known_end(config, state)) is not None:
            print(end, file=sys.stderr)
            process.close()
            return 0
        if config.publish and config.publish_if == "better":
            require_comparable(config, data)
        if config.publish and config.export_int8 and data.val is None:
            raise ValueError("--export_int8 measures what INT8 loses on a validation split: give one, or --val 0.2")
        trackers = start_trackers(config, config.run_folder, state.iteration)
        earlier = set_aside(config.run_folder) if begins else None
    except ProcessLost as lost:
        print(f"error: {lost}", file=sys.stderr)
        return 1
    except (DataStop, DatasetError, CheckpointError, ValueError) as error:
        stop(str(error))
    folder = config.run_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
        if data.held_out is not None:
            data.held_out.save(folder)
        log = RunLog(folder, config.schedule.iterations, state.iteration, config.log_every, trackers)
    except OSError as error:
        stop(f"{error.filename} cannot be written ({error.strerror}): make room, or choose another --output")
    with log:
        log.say(f"{config.name}: {describe(config, data, state.model, process)}; {process.device}, writing to {folder}")
        if earlier is not None:
            log.say(f"the run that was here is kept in {earlier}")
        for line in state.origin:
            log.say(line)
        try:
            interrupted = fit(config, data, state, process, log)
            process.close()
            if interrupted:
                log.say(f"stopped after iteration {state.iteration}; go on with:  {resuming(arguments)}")
                return INTERRUPTED
            if (end := known_end(config, state)) is not None:
                log.say(end)
                log.completed()
                return 0
            log.say("exporting, comparing with the eager model, publishing")
            bundle = publish_run(config, data, best_or_last(folder, state), log.display, publish_if=config.publish_if)
        except NotBetter as kept:
            log.say(str(kept))
            log.completed()
            return 0
        except (TrainingError, ProcessLost, CheckpointError, GateError, BundleError, UnreadableImage, OSError) as error:
            # A loader process sends its stack trace along; the message is the last line.
            line = f"error: {str(error).strip().splitlines()[-1]}"
            if isinstance(error, UnreadableImage):
                line += f"; go on without such images:  {resuming(arguments, skip_broken=True)}"
            elif isinstance(error, OSError) and error.errno in DISK_FULL:
                line = f"error: {error.filename} cannot be written ({error.strerror}): make room, and go on with:  "
                line += resuming(arguments)
            log.say(line)
            return 1
        except KeyboardInterrupt:
            begun = (folder / "checkpoints" / LAST).is_file()
            how = "go on from the last checkpoint" if begun else "before the first checkpoint; begin again"
            log.say(f"interrupted{';' if begun else ''} {how} with:  {resuming(arguments)}")
            return INTERRUPTED
        log.published(bundle)
        log.say(f"published {bundle.path}")
        models = shlex.quote(str(config.model_repository))
        log.say(f"serve it:  {this_command()} serve --models {models} --model {config.name}")
    return 0


@contextmanager
def unless_stopped(config: TrainConfig) -> Iterator[None]:
    """Takes data that was generated, and folders that were made for it, away again where a run cannot begin."""
    data = config.run_folder / "data"
    new = [path for path in (data, *data.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if data in new:
            shutil.rmtree(data, ignore_errors=True)
            with suppress(OSError):  # something else is in there
                for folder in new[1:]:
                    folder.rmdir()
        raise


def finished(config: TrainConfig, state: State) -> bool:
    """Whether nothing remains to be trained."""
    return state.iteration >= config.schedule.iterations or out_of_patience(config, state)


def require_comparable(config: TrainConfig, data: TrainingData) -> None:
    """Raises ValueError where nobody could say in the end whether the run is better than what is served."""
    served = served_version(config.model_repository, config.name)
    if served is None:
        return
    reason = incomparable(served.manifest, config.architecture.task, data.train.class_names, data.val)
    if reason is not None:
        raise ValueError(f"--publish_if better compares with {served.path}, and cannot: {reason}")


def known_end(config: TrainConfig, state: State) -> str | None:
    """What to say of a finished run of which nothing is left to be published; None where its bundle is missing."""
    if not config.publish:
        return f"finished after {state.iteration} iterations; not published (--publish false)"
    bundle = published_bundle(config, best_or_last(config.run_folder, state))
    if bundle is None:
        return None
    return f"finished, published as {bundle.manifest.version}: {bundle.path}"


def follow(config: TrainConfig, data: TrainingData, state: State, process: Process) -> int:
    """What every process but the first does: trains along, and writes nothing; returns the exit status."""
    try:
        interrupted = fit(config, data, state, process, None)
    except (TrainingError, ProcessLost, UnreadableImage) as error:
        print(f"error in process {process.rank}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    process.close()
    return INTERRUPTED if interrupted else 0


def fit(config: TrainConfig, data: TrainingData, state: State, process: Process, log: RunLog | None) -> bool:
    """All remaining iterations, with checkpoints and evaluations on the way; `log` is the first process's alone.

    After Ctrl-C, those up to the next checkpoint, which comes at once; returns whether it was so. The first process
    writes one too before it raises UnreadableImage.
    """
    with Interruption(alone=process.count == 1) as interruption, noticing_loss():
        try:
            return _iterate(config, data, state, process, log, interruption)
        except UnreadableImage:
            if process.first and state.iteration:  # what was learned until here is not lost
                checkpoints = config.run_folder / "checkpoints"
                save_last(snapshot(config, data.train, state, process), checkpoints)
            raise
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the GPU's memory is full ({str(error).splitlines()[0]}): make --batch_size smaller, and --accumulate "
                f"larger, or train in mixed precision (--amp)"
            ) from error
        except RuntimeError as error:
            if LOADER not in str(error):
                raise
            raise TrainingError(
                f"a process that loads images was ended from outside ({str(error).splitlines()[0]}), as happens where "
                f"memory is short: make --workers or --batch_size smaller; --workers 0 loads in the training process"
            ) from error


def _iterate(
    config: TrainConfig,
    data: TrainingData,
    state: State,
    process: Process,
    log: RunLog | None,
    interruption: Interruption,
) -> bool:
    iterations, checkpoints = config.schedule.iterations, config.run_folder / "checkpoints"
    loader = iter(batches(config, data.train, state.iteration, process))
    say = to_stderr if log is None else log.say
    left_out: set[str] = set()
    while not finished(config, state):
        began = time.perf_counter()
        passes = list(islice(loader, config.accumulate))
        loaded = time.perf_counter()
        for line in {line: None for batch in passes for line in batch.left_out if line not in left_out}:
            left_out.add(line)
            say(f"left out, {len(left_out)} until now: {line}; the next image takes its place (--on_broken skip)")
        rate = max(map(float, state.scheduler.get_last_lr()))
        losses = take_step(config, state, passes, process)
        waited, whole = loaded - began, time.perf_counter() - began
        if log is not None:
            log.step(state.iteration, losses | {"rate": rate, "waiting": waited, "waiting_share": waited / whole})
        due = config.validation.every and state.iteration % config.validation.every == 0
        complete = state.iteration == iterations
        if data.val is not None and (due or complete):
            evaluate(config, data.train, data.val, state, process, log)
        interrupted = process.agree(interruption.requested, within_a_step=True)
        if process.first and (interrupted or complete or due or state.iteration % config.checkpoint_every == 0):
            save_last(snapshot(config, data.train, state, process), checkpoints)
        if interrupted:
            return True
    if log is not None and state.iteration < iterations:
        log.say(
            f"stopped at iteration {state.iteration}: {state.without_gain} evaluations without a better AP than "
            f"{state.best:.4f} (--validation.patience)"
        )
    return False


def out_of_patience(config: TrainConfig, state: State) -> bool:
    """Whether the run has had as many evaluations without a better AP as `validation.patience` allows."""
    return config.validation.patience is not None and state.without_gain >= config.validation.patience


def evaluate(
    config: TrainConfig, data: Dataset, val: Dataset, state: State, process: Process, log: RunLog | None
) -> None:
    """COCO AP on the validation split, of the averaged weights if there are any; keeps the best checkpoint; draws
    curves and samples."""
    task, most = config.architecture.task, config.validation.max_detections
    model, folder = state.evaluated, config.run_folder
    process.share_buffers(model)
    predictor = eager_predictor(model, config.architecture, config.intensity)
    with nullcontext() if log is None else log.display.bar("validating", len(val)) as done:
        detections = detect_shared(predictor, val, process, max_detections=most, progress=done)
    losses = {}
    if config.validation.loss:
        losses = validation_losses(model, val, config.architecture, process, config.intensity)
    if log is not None:
        figures = evaluate_detections(val, detections, KINDS[task], limits(most)).headline()
        log.validation(state.iteration, {name: value for name, value in figures.items() if value >= 0} | losses)
        state.without_gain += 1
        if (score := figures[f"{main_kind(task)}/AP"]) > state.best:
            state.best, state.without_gain = score, 0
            save_checkpoint(snapshot(config, data, state, process), folder / "checkpoints" / BEST)
        draw_curves(folder / "metrics.csv", folder / "curves.png")
        samples = folder / "samples" / f"{state.iteration:07d}"
        draw_samples(
            val, detections, config.validation.samples, samples, config.intensity, config.architecture.channels
        )
    state.best, state.without_gain = process.agree((state.best, state.without_gain))


def batches(config: TrainConfig, data: Dataset, skip: int, process: Process) -> DataLoader[Batch]:
    """This process's batches, `accumulate` to a step, from step number `skip` on."""
    augmentation = Augmentation(config.augment, config.architecture, flip_pairs(data))
    on_gpu = process.device.type == "cuda"
    workers = config.workers
    if workers is None:
        workers = workers_by_rule(on_gpu, process.here, usable_cores())
    return make_loader(
        TrainingSet(data, augmentation, config.seed, config.intensity, config.on_broken),
        batch_size=config.batch_size,
        workers=workers,
        skip=skip,
        count=config.schedule.iterations,
        same_size=config.augment.crop is not None,
        pin=on_gpu,
        share=Share(process.rank, process.count, config.accumulate),
    )


def best_or_last(folder: Path, state: State) -> Checkpoint:
    """best.pt where this run has evaluated something, else last.pt."""
    return load_checkpoint(folder / "checkpoints" / (BEST if state.best >= 0 else LAST))


def describe(config: TrainConfig, data: TrainingData, model: nn.Module, process: Process) -> str:
    """One line on what is about to be trained."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    objects = sum(len(annotations) for annotations in data.train.annotations)
    images = step_images(config, process)
    factors = {"in a pass": config.batch_size, "passes": config.accumulate, "processes": process.count}
    named = [f"{factor} {name}" for name, factor in factors.items() if factor > 1 or name == "in a pass"]
    parts = f" ({', '.join(named)})" if images > config.batch_size else ""
    rate = scaled_rate(config.optimizer, images)
    reference = config.optimizer.reference_batch
    scaled = "" if reference is None else f" ({config.optimizer.rate:g} for {reference} images)"
    val = f", {len(data.val)} to validate" if data.val is not None else ""
    return (
        f"{config.architecture.torchvision_class} {config.architecture.backbone}, {parameters / 1e6:.1f} M parameters; "
        f"{len(data.train)} images, {objects} objects in {len(data.train.categories)} classes{val}; "
        f"{config.schedule.iterations} iterations of {images} images{parts}, peak rate {rate:.4g}{scaled}"
    )


if __name__ == "__main__":
    sys.exit(interruptible(main))
