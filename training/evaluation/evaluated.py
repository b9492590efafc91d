"""What `training.evaluate` can be pointed at: a bundle's folder, a training run's checkpoint, a running server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from model.architecture import Task
from model.console.arguments import nearest_path
from model.network.build import build_unfilled
from model.network.engine import EagerEngine
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.manifest import PrecisionChoice, ServingDefaults
from model.runtime.detections import Detections
from model.runtime.engines.devices import check_device, gpu_index
from model.runtime.engines.engine import DeviceChoice, EngineKind
from model.runtime.engines.loading import computes_on_cpu
from model.runtime.engines.precision import choose_precision, load_in
from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.predict import Predictor
from training.checkpoint import load_checkpoint
from training.data.annotations.dataset import Dataset
from training.distributed import require_gpus
from training.evaluation.own_split import Learned
from training.evaluation.remote import RemoteModel
from training.evaluation.validation import detect, eager_predictor

EvaluatedEngine = Literal[EngineKind, "eager"]


class Detector(Protocol):
    """Finds what is in each image of a dataset, as `training.evaluation.validation.detect` does."""

    def __call__(
        self,
        data: Dataset,
        *,
        max_detections: int,
        score_threshold: float,
        progress: Callable[[int], None] | None = None,
    ) -> list[Detections]: ...


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model to evaluate. title says what it is and what runs it; class_names are those of labels 1, 2, ..., None
    where they are the dataset's own;
    intensity is its rule for images of more than 8 bits, channels how many it takes, learned what it says of its
    training."""

    title: str
    task: Task
    class_names: tuple[str, ...] | None
    defaults: ServingDefaults
    detect: Detector
    intensity: Intensity = AUTO
    learned: Learned | None = None
    channels: int = RGB_CHANNELS


def open_model(
    model: str,
    engine: EvaluatedEngine | None,
    device: DeviceChoice,
    threads: int | None,
    precision: PrecisionChoice | None = None,
) -> Evaluated:
    """A server's address, a checkpoint's file or a bundle's folder. For a bundle, engine None is ONNX Runtime and
    precision None f32.

    Raises BundleError, EngineError, CheckpointError or RemoteError, and ValueError for an engine or a precision that
    this kind of model has not.
    """
    if model.startswith(("http://", "https://")):
        if engine is not None or precision is not None or device != "auto" or threads is not None:
            raise ValueError(
                "a running server has its own engine: leave out --engine, --precision, --device and --threads"
            )
        return _served(model)
    if Path(model).is_file():
        if engine not in (None, "eager"):
            raise ValueError(f"a checkpoint runs in torch: leave out --engine {engine}, or export it to a bundle first")
        if precision not in (None, "f32"):
            raise ValueError(f"a checkpoint computes in f32: leave out --precision {precision}, or export it first")
        return _checkpoint(Path(model), device, threads)
    if not Path(model).exists():
        raise ValueError(f"--model: {model} is no file and no folder{nearest_path(Path(model))}")
    if engine == "eager" and precision not in (None, "f32"):
        raise ValueError(f"torch's own modules compute in f32: leave out --precision {precision}, or --engine eager")
    return _bundle(Path(model), engine or "onnx", device, threads, precision or "f32")


def _served(url: str) -> Evaluated:
    remote = RemoteModel(url)
    model = remote.model
    title = f"{model.name}/{model.version} ({url})"
    return Evaluated(title, model.task, remote.class_names, model.defaults, remote.detect)


def _checkpoint(path: Path, device: DeviceChoice, threads: int | None) -> Evaluated:
    loaded = load_checkpoint(path)
    config = loaded.train_config()
    model = build_unfilled(config.architecture)
    model.load_state_dict(loaded.published_state)
    predictor = eager_predictor(model.eval().to(_torch_device(device, threads)), config.architecture, config.intensity)
    title = f"{path.name} after {loaded.iteration} iterations (eager)"
    detector = partial(detect, predictor)
    task, trained_on = config.architecture.task, loaded.trained_on
    learned = None if trained_on is None else Learned(trained_on.train, config.seed, config.val)
    names, channels = loaded.class_names, config.architecture.channels
    return Evaluated(title, task, names, ServingDefaults(), detector, config.intensity, learned, channels)


def _bundle(
    path: Path, engine: EvaluatedEngine, device: DeviceChoice, threads: int | None, wanted: PrecisionChoice
) -> Evaluated:
    bundle = open_bundle(path)
    manifest = bundle.manifest
    title = f"{manifest.name}/{manifest.version} ({engine})"
    if engine == "eager":  # torchvision's own modules with the bundle's weights
        network = load_network(bundle).to(_torch_device(device, threads))
        predictor = Predictor(EagerEngine(network), manifest.preprocessing)
    else:
        precision = choose_precision(wanted, bundle, engine, on_cpu=computes_on_cpu(device, engine))
        predictor = Predictor(load_in(precision, bundle, engine, device, threads), manifest.preprocessing)
        title = f"{manifest.name}/{manifest.version} ({engine}, {precision})"
    detector, seen = partial(detect, predictor), predictor.preprocessing
    task, origin = manifest.architecture.task, manifest.provenance
    learned = None
    if origin.fingerprint is not None and origin.seed is not None:
        learned = Learned(origin.fingerprint, origin.seed)
    return Evaluated(
        title, task, manifest.class_names, manifest.defaults, detector, seen.intensity, learned, seen.channels
    )


def _torch_device(device: DeviceChoice, threads: int | None) -> str:
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    if device != "cpu":
        require_gpus(1 + gpu_index(device), f"device {device}")
    return device
