"""What the exporter computes though it is known is folded, in any network, and weights stay under their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from model.network.exporting.constants import fold_constants
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.repository import EMBEDDED
from tests.model.network.exporting.constants import assert_nothing_known_is_computed

HEADER = '<ir_version: 9, opset_import: ["": 18]> network (float[n] x) => (y)'

NETWORKS = [
    pytest.param(
        "size = Shape(x) n = Squeeze(size) zero = Constant<value_int = 0>() one = Constant<value_int = 1>() "
        "first = CastLike(zero, n) step = CastLike(one, n) y = Range(first, n, step)",
        ["Shape", "Squeeze", "Range"],
        id="the bounds of a Range",
    ),
    pytest.param(
        "one = Constant<value_int = 1>() like = CastLike(one, x) y = Add(x, like)",
        ["Add"],
        id="a literal takes another tensor's type",
    ),
    pytest.param(
        "half = Constant<value_float = 0.5>() two = Constant<value_float = 2.0>() product = Mul(half, two) "
        "wide = Cast<to = 1>(product) y = Mul(x, wide)",
        ["Mul"],
        id="a computation of literals",
    ),
    pytest.param(
        "less = Constant<value_ints = [-1]>() one = Constant<value_ints = [1]>() "
        "shape = Concat<axis = 0>(less, one) y = Reshape(x, shape)",
        ["Reshape"],
        id="a shape made of literals",
    ),
    pytest.param(
        "size = Shape(x) n = Squeeze(size) like = CastLike(n, x) y = Add(x, like)",
        ["Shape", "Squeeze", "Cast", "Add"],
        id="what is sent has a part in it",
    ),
    pytest.param(
        "unused = Constant<value_int = 7>() also = Neg(unused) same = Identity(x) y = Neg(same)",
        ["Neg"],
        id="what nobody uses",
    ),
]


def saved(text: str, file: Path) -> Path:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)), file)
    return file


def folded(file: Path) -> Path:
    network = ir.load(file)
    fold_constants(network)
    target = file.with_name("folded.onnx")
    ir.save(network, target)
    onnx.checker.check_model(target, full_check=True)
    return target


def operators(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file).graph.node]


def answer(file: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([0.25, -3, 7e9], np.float32)})[0]


@pytest.mark.parametrize(("body", "expected"), NETWORKS)
def test_only_what_depends_on_the_input_is_computed(body: str, expected: list[str], tmp_path: Path) -> None:
    file = saved(f"{HEADER} {{ {body} }}", tmp_path / "network.onnx")
    assert operators(folded(file)) == expected
    before, after = answer(file), answer(folded(file))
    assert (before.dtype, before.tobytes()) == (after.dtype, after.tobytes())


def test_weights_keep_their_names_and_what_is_made_of_them_stays(tmp_path: Path) -> None:
    weights = "<float16[3] weight = {1, 2, 3}, float[1] bias = {4}>"
    body = (
        "wide = Cast<to = 1>(weight) three = Constant<value_ints = [3]>() each = Expand(bias, three) "
        "scaled = Mul(x, wide) y = Add(scaled, each)"
    )
    file = saved(f"{HEADER} {weights} {{ {body} }}", tmp_path / "network.onnx")
    assert operators(folded(file)) == ["Cast", "Expand", "Mul", "Add"]
    assert {item.name for item in onnx.load(folded(file)).graph.initializer} == {"weight", "bias", "three"}
    assert answer(file).tobytes() == answer(folded(file)).tobytes()


def test_folding_twice_changes_nothing(tmp_path: Path) -> None:
    once = folded(saved(f"{HEADER} {{ {NETWORKS[0].values[0]} }}", tmp_path / "network.onnx"))
    first = onnx.load(once)
    assert onnx.load(folded(once)).graph == first.graph


def test_the_embedded_network_computes_nothing_that_is_known(tmp_path: Path) -> None:
    bundle = open_bundle(EMBEDDED / "nuclei" / "1", verify=False)
    weights = set(load_network(bundle).state_dict())
    assert_nothing_known_is_computed(bundle.file("model.onnx"), weights, tmp_path)
