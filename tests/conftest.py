"""A real but tiny Mask R-CNN as a published bundle, for who needs the whole line; the order of the tests; and a line
about what was skipped."""

from __future__ import annotations

import gc
import logging
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.once import once

TESTS = Path(__file__).parent

COMPUTING = (
    *("model/network/exporting", "training/loop", "training/test_distributed.py", "benchmarks/test_graph.py"),
    *("model/network/test_variants.py", "training", "benchmarks", "model/network"),
)
"""Where tests compute, most of the time; the longest first, which at the end would leave other cores without work."""
WAITING = ("service/test_ray.py", "service/routes/test_openapi.py", "service/page", "service", "resilience", "docker")
"""Where they wait for servers, too."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """What is imported and collected stays, and is not searched for garbage again and again while it grows."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes share the files, each takes the next one. Those that compute and the others come by turns, so
    that there is always something to compute; the longest come first, so that none is left alone with one at the end.
    """
    files = dict.fromkeys(item.path for item in items)

    def below(*names: str) -> dict[Path, None]:
        return dict.fromkeys(path for name in names for path in files if path.is_relative_to(TESTS / name))

    computing = below(*COMPUTING)
    others = [path for path in below(*WAITING, ".") if path not in computing]
    when = {path: (place + 0.5) / len(share) for share in (computing, others) for place, path in enumerate(share)}
    items.sort(key=lambda item: when[item.path])


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """predict-many turns it off for its process, which may be this one."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_searched_for_garbage() -> Iterator[None]:
    """torch's exporter leaves a million objects, through which every collection after it would have to look."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def trace_anew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Any] | None]:
    """The exporter's own way to trace a network, None where no test that was collected has imported the exporter.

    Everywhere else all processes that run tests at the same time trace a structure once: that takes many times as long
    as the rest of an export, and the same few small networks are exported in many files.
    """
    export = sys.modules.get("model.network.exporting.export")
    if export is None:
        yield None
        return
    import onnx

    trace = export._trace

    def traced(graph: Any) -> Any:
        name = f"traced-{export.traced_structure(graph).hex()}"
        made = once(tmp_path_factory, name, lambda folder: onnx.save(trace(graph), folder / "network.onnx"))
        return onnx.load(made / "network.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_trace", traced)
        yield trace


@pytest.fixture(scope="session", autouse=True)
def _torch_keeps_its_threads() -> Iterator[None]:
    """An engine of TorchScript that is told no number gives torch a thread for each core, for the whole process. Every
    network that its later tests run would be shared out, too small for that, among threads that wait for each other by
    computing: on cores with other work one takes ten times as long."""
    if "torch" not in sys.modules:  # no test that was collected runs a network in this process
        yield
        return
    import torch

    from model.runtime.engines import torchscript

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchscript, "usable_cores", torch.get_num_threads)
        yield


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extensions say at exit that they leak, and what leaks would be no test's failure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says at the end which tests were skipped and what would bring them; pytest's own last line only counts them."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        parts = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        terminalreporter.write_line(f"{len(reports)} skipped: {parts}")


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one model, `tiny`: random weights, four classes, and detections at threshold 0."""

    def publish(repository: Path) -> None:
        import torch

        from model.network.build import build_model
        from model.network.exporting.export import export_onnx
        from model.runtime.bundles.bundle import publish_bundle
        from model.runtime.bundles.manifest import ManifestDraft, Provenance, ServingDefaults
        from model.runtime.preprocess import Preprocessing
        from tests.training.conftest import TINY
        from training.command_line import parse_train_config

        # Of the same structure as what the tests of training export, so that one trace is enough for both.
        trained = parse_train_config(TINY).architecture
        config = trained.model_copy(update={"min_size": 64, "max_size": 128})
        generator_state = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = build_model(config).eval()
        torch.random.set_rng_state(generator_state)
        staging = tmp_path_factory.mktemp("tiny-staging")
        export_onnx(network, staging / "model.onnx")
        draft = ManifestDraft(
            architecture=config,
            class_names=("circle", "square", "star", "ring"),
            preprocessing=Preprocessing.from_architecture(config),
            provenance=Provenance(dataset="none: random weights", license="Apache-2.0"),
            defaults=ServingDefaults(score_threshold=0.0, max_detections=20),
        )
        publish_bundle(staging, draft, repository, "tiny")

    return once(tmp_path_factory, "tiny-models", publish)
