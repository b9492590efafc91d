"""The engine in the service: loaded on every device, its images batched by its own buckets, its second answers counted.

A CPU stands in for the GPUs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.network.engine import EagerEngine
from model.network.serving import starting
from model.network.serving.comparing import reference_images
from model.network.serving.place import Host
from model.runtime.bundles.bundle import ManifestDraft, Provenance, publish_bundle
from model.runtime.engines.engine import EngineError
from model.runtime.preprocess import Preprocessing, prepare
from service.models import loading
from service.models.catalog import Catalog
from service.models.loading import Loader, RefusedError, load_first
from service.observability.metrics import Metrics
from service.observability.record import ImageRecord
from service.prediction.pipeline import Pipeline, _Task
from service.settings.configuration import parse_settings
from service.settings.settings import InvalidSettingsError, Settings
from tests.measured import measured
from tests.model.runtime.conftest import tiny_network

CHANGES = {"task": "masks", "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "detections_per_image": 8}
SEEN = Preprocessing(min_size=64, max_size=64)


@pytest.fixture(scope="module")
def model(helpers: Any) -> Any:
    return helpers.detector(helpers.small.model_copy(update=CHANGES))


@pytest.fixture
def publish(tmp_path: Path, helpers: Any, model: Any) -> Callable[..., Path]:
    """A repository with that model as it was measured."""

    def of(**ap: float) -> Path:
        folder = tmp_path / "staging"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(tiny_network("masks"))
        torch.save(model.state_dict(), folder / "weights.pth")
        draft = ManifestDraft(
            architecture=helpers.small.model_copy(update=CHANGES),
            class_names=("a", "b", "c", "d"),
            preprocessing=SEEN,
            provenance=Provenance(dataset="generated", license="CC0-1.0"),
            precisions=measured(**ap),
        )
        publish_bundle(folder, draft, tmp_path / "models", "small")
        return tmp_path / "models"

    return of


@pytest.fixture
def settings(publish: Callable[..., Path]) -> Settings:
    """Of a server for that model, on two GPUs."""
    return Settings(models=publish(), engine="cuda", device="cuda:0,cuda:1", max_batch_size=2)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "why_no_gpu", lambda index: None)

    def place(index: int, name: str) -> Host:
        host = Host()
        host.name = name
        return host

    monkeypatch.setattr(starting, "Gpu", place)


@pytest.mark.usefixtures("gpus")
def test_images_are_answered_by_the_engines_of_all_devices(settings: Settings, model: Any) -> None:
    served = Loader(settings).load("small", 1)
    assert (served.engine, served.precision, served.devices) == ("cuda", "f32", ("cuda:0", "cuda:1"))
    assert (served.lane.at_once, served.lane.max_batch_size) == (2, 2)
    images = [prepare(image, SEEN) for image in reference_images(6, (64, 64), 3)]

    async def ask() -> list[Any]:
        pipeline = Pipeline(Catalog("small", [served]), settings, Metrics())
        tasks = [_Task(served, image, 0.1, ImageRecord()) for image in images]
        bucket = served.bucket(images[0].bucket)
        answers = await asyncio.gather(*(pipeline.batcher.submit(task, served.lane, bucket) for task in tasks))
        pipeline.close()
        return [answer.value for answer in answers]

    eager = EagerEngine(model)
    for image, answer in zip(images, asyncio.run(ask()), strict=True):
        expected = eager.run(image.pixels[None], np.array([image.valid]), np.full(1, 0.1, np.float32))
        assert len(expected.scores) > 0
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(answer.boxes, expected.boxes, atol=0.02)
    assert served.answered_again == {"overflow": 0, "inexact": 0}
    served.engines[1]._again._counts["inexact"] += 3
    assert served.answered_again == {"overflow": 0, "inexact": 3}
    first, hung = served.engines
    served.replace(1, first)
    assert served.engines == (first, first)
    assert served.answered_again == {"overflow": 0, "inexact": 3}, "what an engine that hangs had counted is kept"
    for engine in (first, hung):
        engine.close()


@pytest.mark.usefixtures("gpus")
def test_what_is_computed_again_before_anybody_asks_is_not_counted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(engine: Any, *_: object) -> None:
        engine._again._counts["inexact"] += 5

    monkeypatch.setattr(starting, "check_engine", check)
    loader = Loader(settings)
    served = loader.load("small", 1)
    assert served.answered_again == {"overflow": 0, "inexact": 0}
    served.engines[0]._again._counts["inexact"] += 1
    served.replace(0, loader.start_engine(served, 0))
    assert served.answered_again == {"overflow": 0, "inexact": 1}
    served.engines[0]._again._counts["overflow"] += 1
    assert served.answered_again == {"overflow": 1, "inexact": 1}
    served.close()


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_computes_something_else_is_no_reason_to_answer_wrongly(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> None:
        raise EngineError("on cuda:0 the network is not what it is in float32: box head by 0.7")

    monkeypatch.setattr(starting, "check_engine", check)
    with pytest.raises(RefusedError, match="on cuda:0 the network is not what it is in float32"):
        Loader(settings).load("small", 1)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("flags", "ap", "precision", "why"),
    [
        pytest.param(
            [], {"f32": 0.5, "f16": 0.4995}, "f16", "as there is a GPU, in f16, which lost 0.05 points", id="proven"
        ),
        pytest.param([], {"f32": 0.5, "f16": 0.49}, "f32", "in f32, as f16 lost 1.00 points of AP", id="it loses"),
        pytest.param([], {}, "f32", "in f32, as what f16 loses was not measured", id="nobody knows"),
        pytest.param(["--precision=f32"], {"f32": 0.5, "f16": 0.5}, "f32", "as there is a GPU", id="f32 is said"),
        pytest.param(["--precision=auto"], {"f32": 0.5, "f16": 0.5}, "f16", "as there is a GPU", id="auto is said"),
        pytest.param(["--engine=cuda"], {"f32": 0.5, "f16": 0.5}, "f32", "", id="the engine is said"),
    ],
)
def test_half_precision_is_the_default_on_a_gpu_where_it_is_proven(
    publish: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    ap: dict[str, float],
    precision: str,
    why: str,
) -> None:
    monkeypatch.setattr(loading, "why_no_cuda_engine", lambda device: None)
    given = [f"--models={publish(**ap)}", "--device=cuda:0", "--max-batch-size=1", *flags]
    served = Loader(parse_settings(given)).load("small", 1)
    assert (served.engine.partition(",")[0], served.precision) == ("cuda", precision)
    assert why in served.engine_why
    assert ("in f" in served.engine_why) == (not flags)
    served.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_without_a_gpu_the_start_says_so(settings: Settings, device: str) -> None:
    with pytest.raises(InvalidSettingsError, match="the cuda engine was asked for on device"):
        load_first(settings.model_copy(update={"device": device}))
