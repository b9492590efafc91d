"""Which precision is chosen: by what is asked for, what the bundle proves, the engine and the processor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest

from model.runtime.bundles.bundle import Bundle, ManifestDraft, publish_bundle
from model.runtime.bundles.errors import DamagedFile
from model.runtime.bundles.manifest import INT8_FILE, EngineEvaluation, Manifest, Precision, PrecisionChoice, Trades
from model.runtime.engines.engine import EngineKind, Unavailable
from model.runtime.engines.precision import choose_precision, load_in, why_half, why_precision
from model.runtime.preprocess import Preprocessing
from tests.measured import measured

VNNI = frozenset({"avx2", "avx512_vnni"})
OLD = frozenset({"avx2"})

LARGE = Preprocessing(min_size=256, max_size=1536, allow_downscale=False)
"""Of which the engine `cuda` has other padded sizes than the rest."""

Make = Callable[..., Bundle]


def add_weights(file: Path, largest: int) -> None:
    """Integers that reach this, which nothing computes with."""
    network = onnx.load(file)
    network.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[3], [-largest]], np.int8), "integers"))
    onnx.save(network, file)


@pytest.fixture
def make(staging: Path, draft: ManifestDraft, tmp_path: Path) -> Make:
    """Publishes a bundle with the figures given; with INT8 in a file of its own, which finds half as bright objects."""

    def of(
        *, alone: bool = False, head_room: float | None = 50.0, largest_weight: int | None = None, **ap: float
    ) -> Bundle:
        if "int8" in ap:
            network = onnx.load(staging / "model.onnx")
            full_light = next(one for one in network.graph.initializer if one.name == "full_light")
            full_light.CopyFrom(onnx.numpy_helper.from_array(np.array(255 * 6, np.float32), "full_light"))
            onnx.save(network, staging / INT8_FILE)
        if largest_weight is not None:
            add_weights(staging / ("model.onnx" if alone else INT8_FILE), largest_weight)
        trades = Trades(int8=True, ap_deltas={"mask/AP": 0.0}) if alone else None
        known = draft.model_copy(update={"precisions": measured(head_room=head_room, **ap), "trades": trades})
        return publish_bundle(staging, known, tmp_path / "repository", "tiny")

    return of


@pytest.mark.parametrize(
    ("wanted", "ap", "features", "kind", "on_cpu", "chosen"),
    [
        pytest.param("f32", {"f32": 0.5, "int8": 0.5}, VNNI, "onnx", True, "f32", id="what is asked for"),
        pytest.param("int8", {"f32": 0.5, "int8": 0.3}, VNNI, "onnx", True, "int8", id="asked for, whatever it loses"),
        pytest.param("int8", {"f32": 0.5, "int8": 0.5}, OLD, "onnx", True, "int8", id="asked for, on any processor"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.4981}, VNNI, "onnx", True, "int8", id="loses 0.19 points"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.4979}, VNNI, "onnx", True, "f32", id="loses 0.21 points"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.52}, VNNI, "onnx", True, "int8", id="gains"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, OLD, "onnx", True, "f32", id="weights that are not known"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, frozenset(), "onnx", True, "f32", id="unknown processor"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, {"avx_vnni"}, "onnx", True, "int8", id="a client's processor"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, {"amx_int8"}, "onnx", True, "int8", id="AMX"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, VNNI, "onnx", False, "f32", id="a GPU"),
        pytest.param("auto", {"f32": 0.5, "int8": 0.5}, VNNI, "torchscript", True, "f32", id="an engine of f32 alone"),
        pytest.param("auto", {}, VNNI, "onnx", True, "f32", id="no INT8"),
        pytest.param("auto", {}, VNNI, "cuda", False, "f32", id="half precision that nobody measured"),
        pytest.param("f16", {}, VNNI, "cuda", False, "f16", id="half precision that is asked for"),
        pytest.param("f32", {}, VNNI, "cuda", False, "f32", id="float32 on a GPU"),
        pytest.param(
            "auto", {"f32": -1.0, "int8": -1.0}, VNNI, "onnx", True, "f32", id="AP that could not be measured"
        ),
    ],
)
def test_choice(
    make: Make,
    wanted: PrecisionChoice,
    ap: dict[str, float],
    features: frozenset[str],
    kind: EngineKind,
    on_cpu: bool,
    chosen: Precision,
) -> None:
    assert choose_precision(wanted, make(**ap), kind, on_cpu=on_cpu, features=features) == chosen


@pytest.mark.parametrize(
    ("largest_weight", "features", "chosen", "why"),
    [
        pytest.param(64, OLD, "int8", "which lost 0.10 points of AP by onnx", id="no sum of two overflows"),
        pytest.param(65, OLD, "f32", "may overflow on this processor, which has no dot", id="some may"),
        pytest.param(127, OLD, "f32", "(its weights reach 127)", id="8 bits"),
        pytest.param(None, OLD, "f32", "(how large its weights are is not known)", id="unknown"),
        pytest.param(127, VNNI, "int8", "which lost 0.10", id="sums of 32 bits"),
        pytest.param(64, frozenset(), "f32", "as nothing is faster by onnx on this processor", id="no instructions"),
    ],
)
def test_int8_is_taken_with_avx2_alone_where_nothing_can_overflow(
    make: Make, largest_weight: int | None, features: frozenset[str], chosen: Precision, why: str
) -> None:
    bundle = make(f32=0.5, int8=0.499, largest_weight=largest_weight)
    assert choose_precision("auto", bundle, features=features) == chosen
    assert why in why_precision(bundle, chosen, "onnx", features)


def test_what_may_overflow_is_looked_up_in_the_published_file(make: Make) -> None:
    bundle = make(f32=0.5, int8=0.5, largest_weight=60)
    bundle.file(INT8_FILE).write_bytes(bundle.file("model.onnx").read_bytes())
    with pytest.raises(DamagedFile, match="was changed after publishing"):
        choose_precision("auto", bundle, features=OLD)
    assert choose_precision("auto", make(f32=0.5, int8=0.49, largest_weight=60), features=OLD) == "f32"


@pytest.mark.parametrize(
    ("ap", "head_room", "chosen", "why"),
    [
        pytest.param({}, None, "f32", "f32, as what f16 loses was not measured when it was published", id="unknown"),
        pytest.param({"f32": 0.5, "int8": 0.5}, None, "f32", "f32, as what f16 loses was not", id="only INT8 is known"),
        pytest.param({"f32": -1, "f16": -1}, 50, "f32", "f32, as what f16 loses was not", id="no objects to find"),
        pytest.param({"f32": 0.5, "f16": 0.4981}, 50, "f16", "f16, which lost 0.19 points of AP when", id="a little"),
        pytest.param({"f32": 0.5, "f16": 0.5002}, 50, "f16", "f16, which lost 0.00 points of AP when", id="a gain"),
        pytest.param({"f32": 0.5, "f16": 0.4979}, 50, "f32", "f32, as f16 lost 0.21 points of AP", id="too much"),
        pytest.param({"f32": 0.5, "f16": 0.5}, 2, "f16", "f16, which lost 0.00 points of AP", id="enough room"),
        pytest.param(
            {"f32": 0.5, "f16": 0.5},
            1.9,
            "f32",
            "f32, as its numbers have too little room in f16 (a factor of 1.9)",
            id="too little room",
        ),
        pytest.param({"f32": 0.5, "f16": 0.5}, 0, "f32", "too little room in f16 (a factor of 0)", id="overflows"),
        pytest.param({"f32": 0.5, "f16": 0.5}, None, "f32", "too little room in f16", id="room that nobody measured"),
    ],
)
def test_half_precision_is_taken_on_a_gpu_where_the_bundle_proves_it(
    make: Make, ap: dict[str, float], head_room: float | None, chosen: Precision, why: str
) -> None:
    bundle = make(head_room=head_room, **ap)
    assert choose_precision("auto", bundle, "cuda", on_cpu=False) == chosen
    assert choose_precision("f16", bundle, "cuda", on_cpu=False) == "f16", "asked for, whatever it loses"
    assert why in why_half(bundle.manifest)


@pytest.mark.parametrize(
    ("exact", "half"),
    [
        pytest.param({"box/AP": 0.5, "mask/AP": 0.001}, {"box/AP": 0.5}, id="the masks' was next to nothing"),
        pytest.param({"box/AP": 0.5, "mask/AP": 0.5}, {"mask/AP": 0.5}, id="the boxes'"),
        pytest.param({"box/AP": 0.5}, {"mask/AP": 0.5}, id="another kind"),
        pytest.param({"box/AP": 0.5}, {}, id="all"),
        pytest.param({}, {"box/AP": 0.5}, id="of float32"),
    ],
)
def test_what_was_measured_in_one_precision_alone_proves_nothing(
    draft: ManifestDraft, staging: Path, tmp_path: Path, exact: dict[str, float], half: dict[str, float]
) -> None:
    known = measured(f32=0.5, f16=0.5)
    known["f32"] = known["f32"].model_copy(update={"metrics": exact})
    known["f16"] = known["f16"].model_copy(update={"metrics": half})
    told = draft.model_copy(update={"precisions": known})
    bundle = publish_bundle(staging, told, tmp_path / "repository", "tiny")
    assert choose_precision("auto", bundle, "cuda", on_cpu=False) == "f32"
    assert why_half(bundle.manifest) == "f32, as what f16 loses was not measured when it was published"


@pytest.mark.parametrize(
    ("exact", "half", "why"),
    [
        pytest.param(0.497, 0.496, "f16, which lost 0.10 points of AP", id="with float32 padded alike"),
        pytest.param(0.503, 0.5, "f32, as f16 lost 0.30 points of AP", id="with that, though padding won as much"),
        pytest.param(None, 0.5, "f32, as what f16 loses was not measured", id="with nothing, where there is none"),
    ],
)
def test_half_precision_of_images_that_a_release_of_before_padded_otherwise_is_compared(
    draft: ManifestDraft, exact: float | None, half: float, why: str
) -> None:
    """There padding changed answers; that float32 elsewhere has 50 points of AP says nothing of rounding."""
    known = {**measured(f32=0.5), **measured(f16=half)}
    known["f16"] = known["f16"].model_copy(update={"padded_to": (64, 1536)})
    if exact is not None:
        figures = measured(f16=exact)["f16"].model_dump(include=set(EngineEvaluation.model_fields))
        padded = EngineEvaluation(**{**figures, "padded_to": (64, 1536)})
        known["f32"] = known["f32"].model_copy(update={"other_engines": (padded,)})
    manifest = cast(Manifest, draft.model_copy(update={"precisions": known}))
    assert why_half(manifest).startswith(why)


@pytest.mark.parametrize("wanted", ["f32", "int8", "auto"])
def test_a_network_that_was_quantized_itself_computes_in_int8(make: Make, wanted: PrecisionChoice) -> None:
    bundle = make(alone=True)
    assert choose_precision(wanted, bundle, features=VNNI) == "int8"
    load_in("int8", bundle, device="cpu", threads=1).close()


@pytest.mark.parametrize(
    ("wanted", "kind", "alone", "message"),
    [
        pytest.param(
            "int8", "onnx", False, f"has no {INT8_FILE}; publish one with: maskserve export --bundle", id="no INT8"
        ),
        pytest.param(
            "int8",
            "torchscript",
            False,
            "the torchscript engine does not compute; choose engine onnx or openvino",
            id="engine",
        ),
        pytest.param("bf16", "torchscript", False, "the torchscript engine does not compute", id="bf16 in torch"),
        pytest.param("f16", "onnx", False, "does not compute; choose engine cuda, or", id="f16 in ONNX Runtime"),
        pytest.param(
            "int8", "cuda", False, "the cuda engine does not compute; choose engine onnx or", id="INT8 in cuda"
        ),
        pytest.param("bf16", "onnx", False, "does not compute; choose engine openvino, or", id="bf16 in ONNX Runtime"),
    ],
)
def test_what_cannot_be_had_is_told_with_what_can(
    make: Make, wanted: PrecisionChoice, kind: EngineKind, alone: bool, message: str
) -> None:
    with pytest.raises(Unavailable, match=message) as raised:
        choose_precision(wanted, make(alone=alone), kind, features=VNNI)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("precision f32 or auto")


def test_int8_that_may_overflow_is_warned_of(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    large, small = (make(f32=0.5, int8=0.5, largest_weight=largest) for largest in (127, 64))
    with caplog.at_level(logging.WARNING):
        choose_precision("int8", large, features=VNNI)
        choose_precision("int8", large, on_cpu=False, features=OLD)
        choose_precision("int8", small, features=OLD)
        assert not caplog.records
        choose_precision("int8", large, features=OLD)
    assert "tiny/1 computes in INT8, and sums in int8 may overflow on this processor" in caplog.text
    assert "it can lose more AP than was measured" in caplog.text


def test_the_file_of_the_precision_runs(make: Make) -> None:
    bundle, image = make(f32=0.5, int8=0.5), np.full((1, 64, 64, 3), 255, np.uint8)
    scores = {}
    for precision in ("f32", "int8"):
        engine = load_in(precision, bundle, device="cpu", threads=1)
        found = engine.run(image, np.array([[64, 64]]), np.zeros(1, np.float32))
        scores[precision] = found.scores.tolist()
        engine.close()
    assert scores == {"f32": [1.0], "int8": [0.5]}
