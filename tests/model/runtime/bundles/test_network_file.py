"""A network that is not complete in its file, or asks for foreign operators, is refused before an engine sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.runtime.bundles.bundle import Bundle, open_bundle
from model.runtime.bundles.errors import BundleError, DamagedFile, ForeignNetwork
from model.runtime.bundles.network_file import check_network, largest_weight
from model.runtime.bundles.repository import EMBEDDED

FILE = Path("model.onnx")


def elsewhere(location: str = "../secret.bin") -> TensorProto:
    """A tensor whose values are those of another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def here() -> TensorProto:
    return numpy_helper.from_array(np.zeros(2, np.float32), "weight")


def network(
    *nodes: onnx.NodeProto, tensors: tuple[TensorProto, ...] = (), functions: tuple[onnx.FunctionProto, ...] = ()
) -> bytes:
    graph = helper.make_graph(nodes, "network", [], [], tensors)
    model: onnx.ModelProto = helper.make_model(graph, functions=functions)
    return model.SerializeToString()


def branch(*nodes: onnx.NodeProto, tensors: tuple[TensorProto, ...] = ()) -> onnx.NodeProto:
    """A node with a graph inside it."""
    return helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph(nodes, "then", [], [], tensors))


def function(*nodes: onnx.NodeProto, domain: str = "own") -> onnx.FunctionProto:
    made: onnx.FunctionProto = helper.make_function(domain, "Twice", ["x"], ["y"], nodes, [])
    return made


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.arange(2)), dims=[4])


def in_training(tensor: TensorProto) -> bytes:
    model = onnx.ModelProto(ir_version=8)
    model.training_info.add(initialization=helper.make_graph([], "first", [], [], [tensor]))
    return model.SerializeToString()


def with_sparse_weights(tensor: TensorProto) -> bytes:
    graph = helper.make_graph([], "network", [], [], sparse_initializer=[sparse(tensor)])
    made: onnx.ModelProto = helper.make_model(graph)
    return made.SerializeToString()


CONSTANT = helper.make_node("Constant", [], ["y"], value=elsewhere())
IN_A_BRANCH = branch(CONSTANT)
PLACES: list[tuple[str, Callable[[TensorProto], bytes]]] = [
    ("a weight", lambda one: network(tensors=(one,))),
    ("a weight behind others", lambda one: network(tensors=(here(), here(), one))),
    ("a constant", lambda one: network(helper.make_node("Constant", [], ["y"], value=one))),
    ("one of a list", lambda one: network(helper.make_node("X", [], ["y"], values=[here(), one]))),
    ("a branch's weight", lambda one: network(branch(tensors=(one,)))),
    ("a branch's branch's", lambda one: network(branch(branch(tensors=(one,))))),
    (
        "a function's constant",
        lambda one: network(functions=(function(helper.make_node("Constant", [], ["y"], value=one)),)),
    ),
    ("a sparse weight", with_sparse_weights),
    ("a sparse constant", lambda one: network(helper.make_node("Constant", [], ["y"], sparse_value=sparse(one)))),
    ("a training's weight", in_training),
    ("a second graph", lambda one: network(tensors=(here(),)) + network(tensors=(one,))),  # protobuf merges them
]


@pytest.mark.parametrize("place", [row[1] for row in PLACES], ids=[row[0] for row in PLACES])
def test_weights_in_another_file_are_refused_wherever_they_are_named(place: Callable[[TensorProto], bytes]) -> None:
    check_network(memoryview(place(here())), FILE)
    for location in ("../secret.bin", "/etc/passwd", "weights.pth", ""):
        with pytest.raises(ForeignNetwork, match=r"model\.onnx keeps weights in another file"):
            check_network(memoryview(place(elsewhere(location))), FILE)


def test_a_tensor_that_says_it_is_elsewhere_need_not_say_where() -> None:
    for tensor in (
        TensorProto(data_location=TensorProto.EXTERNAL),
        TensorProto(external_data=[onnx.StringStringEntryProto(key="location", value="x")]),
    ):
        with pytest.raises(ForeignNetwork):
            check_network(memoryview(network(tensors=(tensor,))), FILE)


def foreign(domain: str) -> onnx.NodeProto:
    return helper.make_node("Twice", ["x"], ["y"], domain=domain)


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        pytest.param(network(foreign("")), False, id="ONNX's own"),
        pytest.param(network(foreign("ai.onnx")), False, id="ONNX's own, by its other name"),
        pytest.param(network(foreign("com.microsoft")), False, id="ONNX Runtime's"),
        pytest.param(network(foreign("own"), functions=(function(),)), False, id="a function of the file itself"),
        pytest.param(network(foreign("evil")), True, id="another library's"),
        pytest.param(network(foreign("com.microsoft.evil")), True, id="one that begins as a known one"),
        pytest.param(network(branch(foreign("evil"))), True, id="another library's in a branch"),
        pytest.param(network(functions=(function(foreign("evil")),)), True, id="another library's in a function"),
        pytest.param(network(foreign("evil"), functions=(function(),)), True, id="beside a function of another name"),
    ],
)
def test_operators_of_other_libraries_are_refused(content: bytes, refused: bool) -> None:
    if not refused:
        check_network(memoryview(content), FILE)
        return
    with pytest.raises(ForeignNetwork, match=r"asks for operators of '(com\.microsoft\.)?evil'"):
        check_network(memoryview(content), FILE)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not a network", id="a text"),
        pytest.param(network(tensors=(here(),))[:-3], id="cut short"),
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="longer than the file"),
        pytest.param(b"\x80" * 20, id="a number without an end"),
        pytest.param(b"\x3b\x3c", id="a group, which protobuf skips and this does not look into"),
        pytest.param(b"\x00\x00", id="a field of no number"),
        pytest.param(b"\xba\x80\x80\x80\x80\x80\x01\x00", id="a field's number that protobuf would cut off"),
    ],
)
def test_what_is_no_onnx_is_told(content: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"model\.onnx is no ONNX file"):
        check_network(memoryview(content), FILE)


def test_deeply_nested_graphs_end() -> None:
    content = b""
    for _ in range(3000):  # a graph in an attribute of a node of a graph, each around the one before
        for number in (6, 5, 1):
            size = len(content)
            length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            content = bytes([number << 3 | 2]) + length + content
    check_network(
        memoryview(
            b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14]) + content
        ),
        FILE,
    )


def test_what_is_published_here_passes() -> None:
    for version in (EMBEDDED / "nuclei").iterdir():
        for file in version.glob("*.onnx"):
            check_network(memoryview(file.read_bytes()), file)


def of_type(values: list[list[int]], type_: type[np.generic], name: str = "weight") -> TensorProto:
    return numpy_helper.from_array(np.array(values, type_), name)


def one_by_one(values: list[list[int]]) -> TensorProto:
    """Not as exports here write them."""
    return helper.make_tensor("weight", TensorProto.INT8, np.shape(values), np.ravel(values))


@pytest.mark.parametrize(
    ("tensors", "largest"),
    [
        pytest.param((of_type([[3, -64], [64, 0]], np.int8),), 64, id="7 bits"),
        pytest.param((of_type([[3], [-128]], np.int8),), 128, id="the largest has a sign"),
        pytest.param((of_type([[0, 0]], np.int8),), 0, id="none"),
        pytest.param((of_type([[]], np.int8),), 0, id="empty"),
        pytest.param((of_type([[200]], np.uint8),), 200, id="unsigned"),
        pytest.param((of_type([[5]], np.int8), of_type([[90]], np.int8, "other")), 90, id="two layers"),
        pytest.param((of_type([[5]], np.int8), of_type([[1000]], np.int32, "bias")), 5, id="wider integers"),
        pytest.param((numpy_helper.from_array(np.array([100, 0], np.int8), "zeros"),), None, id="zero points alone"),
        pytest.param((here(),), None, id="float32"),
        pytest.param((of_type([[5]], np.int8), one_by_one([[90]])), None, id="written otherwise"),
        pytest.param((), None, id="nothing"),
    ],
)
def test_how_large_the_integers_are(tensors: tuple[TensorProto, ...], largest: int | None) -> None:
    assert largest_weight(memoryview(network(tensors=tensors))) == largest
    assert largest_weight(memoryview(network(branch(tensors=tensors)))) == largest


def test_sizes_may_be_written_together() -> None:
    """As protobuf's third syntax does: fields 1 and 2, the sizes 2 and 1 and the type, and field 9, the bytes."""
    tensor = bytes([0x0A, 2, 2, 1, 0x10, 3, 0x4A, 2, 7, 0x9C])
    parsed = TensorProto.FromString(tensor)
    assert numpy_helper.to_array(parsed).tolist() == [[7], [-100]]
    graph = bytes([0x2A, len(tensor), *tensor])
    assert largest_weight(memoryview(bytes([0x3A, len(graph), *graph]))) == 100


def test_the_embedded_models_int8_overflows_on_no_processor() -> None:
    [folder] = (EMBEDDED / "nuclei").iterdir()
    assert largest_weight(memoryview((folder / "model.int8.onnx").read_bytes())) == 64
    assert largest_weight(memoryview((folder / "model.onnx").read_bytes())) is None


def replant(bundle: Bundle, content: bytes) -> None:
    """The bundle's network is this one, and its manifest says so: as who publishes it could make it."""
    (bundle.path / "model.onnx").write_bytes(content)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(network(tensors=(elsewhere(),)), ForeignNetwork, id="weights outside of the folder"),
        pytest.param(
            network(tensors=(elsewhere("weights.pth"),)), ForeignNetwork, id="weights in another of its files"
        ),
        pytest.param(network(foreign("evil")), ForeignNetwork, id="a foreign operator"),
        pytest.param(b"\x80\x04\x95", DamagedFile, id="a pickle"),
    ],
)
def test_a_bundle_with_such_a_network_does_not_open(content: bytes, error: type[BundleError], bundle: Bundle) -> None:
    (bundle.path.parent / "secret.bin").write_bytes(bytes(8))
    replant(bundle, content)
    with pytest.raises(error):
        open_bundle(bundle.path)
