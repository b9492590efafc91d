"""The catalog: who answers, and when what is retired is closed."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.runtime.bundles.manifest import FileRecord, Manifest, Provenance
from model.runtime.detections import RawDetections
from model.runtime.preprocess import Preprocessing
from service.http.problems import MODEL_REFUSED, NO_SUCH_MODEL, NOTHING_SERVED, Problem
from service.models.catalog import Catalog, ServedModel
from service.scheduling.waiting import Lane


class Engine:
    """Knows only whether it was closed."""

    name, device = "onnx", "cpu"

    def __init__(self) -> None:
        self.closed = False

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


def served(name: str, version: int, *engines: Engine) -> ServedModel:
    manifest = Manifest(
        architecture=ArchitectureConfig(num_classes=2),
        class_names=("cell",),
        preprocessing=Preprocessing(),
        provenance=Provenance(dataset="none", license="none"),
        name=name,
        version=version,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        files={"model.onnx": FileRecord(sha256="0" * 64, bytes=1)},
    )
    return ServedModel.of(manifest, engines, "f32", Lane(name, 1), 64)


def test_the_newest_version_answers_and_others_by_number() -> None:
    catalog = Catalog("a", [served("b", 3), served("a", 9), served("a", 10)])
    assert str(catalog.find()) == "a/10"
    assert str(catalog.find("a", 9)) == "a/9"
    assert str(catalog.find("b")) == "b/3"
    assert [str(model) for model in catalog.served] == ["a/10", "a/9", "b/3"]
    assert [str(model) for model in catalog.answering] == ["a/10", "b/3"]


def test_a_pinned_version_answers_in_place_of_the_newest_and_never_another() -> None:
    catalog = Catalog("a", [served("b", 3), served("a", 9), served("a", 10)])
    catalog.pins |= {"a": 9, "b": 2}
    catalog.retired["b", 2] = "it was unloaded"
    assert str(catalog.find()) == "a/9"
    assert str(catalog.find("a", 10)) == "a/10"
    assert str(catalog.find("b", 3)) == "b/3"
    assert [str(model) for model in catalog.answering] == ["a/9"]
    with pytest.raises(Problem, match=r"no model b/2, to which b is pinned \(it was unloaded\); this server has a/10"):
        catalog.find("b")


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        pytest.param("c", None, "There is no model c; this server has a/1", id="another name"),
        pytest.param("a", 2, r"There is no model a/2 \(it is broken\); this server has a/1", id="a refused version"),
        pytest.param("a", 3, "There is no model a/3; this server has a/1", id="another version"),
    ],
)
def test_what_is_not_there_is_a_problem_that_names_what_is(name: str, version: int | None, message: str) -> None:
    catalog = Catalog("a", [served("a", 1)])
    catalog.refused["a", 2] = "it is broken"
    with pytest.raises(Problem, match=message) as caught:
        catalog.find(name, version)
    assert caught.value.kind == NO_SUCH_MODEL


def test_nothing_served_is_a_reason_to_come_back() -> None:
    catalog = Catalog("a")
    with pytest.raises(Problem) as caught:
        catalog.find()
    assert caught.value.kind == NOTHING_SERVED
    assert caught.value.retry_after is not None


def test_a_retired_model_is_closed_on_every_device_when_its_last_lease_ends() -> None:
    one, two, other = Engine(), Engine(), Engine()
    model = served("a", 1, one, two)
    catalog = Catalog("a", [model])
    with catalog.lease() as first:
        with catalog.lease("a", 1) as second:
            assert first is second is model
            catalog.add(served("a", 2, other))
            catalog.retire(model)
            assert str(catalog.find()) == "a/2"
            assert not one.closed
        assert not one.closed
    assert (one.closed, two.closed, other.closed) == (True, True, False)
    catalog.close()
    assert other.closed


def test_a_retired_model_that_nobody_uses_is_closed_at_once() -> None:
    engine = Engine()
    model = served("a", 1, engine)
    catalog = Catalog("a", [model])
    catalog.retire(model)
    assert engine.closed


def test_versions_tell_what_became_of_each() -> None:
    catalog = Catalog("a", [served("a", 1), served("a", 3)])
    catalog.refused["a", 2] = "it is broken"
    catalog.loading.add(("a", 4))
    catalog.refused["b", 1] = "also broken"
    found = [(one.version, one.state, one.reason) for one in catalog.versions("a")]
    assert found == [(4, "loading", ""), (3, "served", ""), (2, "refused", "it is broken"), (1, "served", "")]
    assert catalog.known_names == ("a", "b")
    assert catalog.served_names == ("a",)
    catalog.check_newest("a")
    with pytest.raises(Problem, match="b/1 is refused: also broken") as caught:
        catalog.check_newest("b")
    assert caught.value.kind == MODEL_REFUSED
