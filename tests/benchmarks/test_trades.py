"""What the benchmark says of its figures. The networks themselves are tested with the quantizer and the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.measure import Comparison, Spread, Timing
from benchmarks.trades import AS_TRAINED, INT8, ap_table, operator_seconds, operator_table, verdict


def comparison(speedup: float) -> Comparison:
    spread = Spread(1.0, 1.0, 1.0, 1.0)
    timings = (Timing(AS_TRAINED, spread, (1.0,), 1.0, spread), Timing(INT8, spread, (1.0,), speedup, spread))
    return Comparison(AS_TRAINED, timings, 1.0, 0.0, True)


def figures(mask_ap: float) -> dict[str, dict[str, float]]:
    return {AS_TRAINED: {"box/AP": 0.6, "mask/AP": 0.58}, INT8: {"box/AP": 0.59, "mask/AP": mask_ap, "mask/AP50": 0.9}}


@pytest.mark.parametrize(
    ("speedup", "mask_ap", "met"),
    [
        pytest.param(1.5, 0.577, True, id="fast and close"),
        pytest.param(1.3, 0.577, False, id="too slow"),
        pytest.param(1.5, 0.574, False, id="too far off"),
    ],
)
def test_int8_has_two_targets(speedup: float, mask_ap: float, met: bool) -> None:
    found, text = verdict(comparison(speedup), figures(mask_ap), "masks")
    assert found == met
    assert f"INT8 {speedup:.2f}x" in text
    assert f"{100 * (0.58 - mask_ap):.2f} points" in text
    assert ("MISSED" in text) != met


def test_the_table_has_each_ap_and_its_difference() -> None:
    _, line = ap_table(comparison(1.5), figures(0.577)).splitlines()
    assert line.split() == ["int8", "1.50x", "box/AP", "59.00", "(-1.00)", "mask/AP", "57.70", "(-0.30)"]


def test_the_profile_names_operators(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])
    product = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])
    nodes = [helper.make_node("MatMul", ["x", "x"], ["square"]), helper.make_node("Sin", ["square"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [value], [product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    seconds = operator_seconds(tmp_path / "model.onnx", [{"x": np.ones((64, 64), np.float32)}] * 3, threads=1)
    assert set(seconds) == {"MatMul", "Sin"}
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)
    assert all(value > 0 for value in seconds.values())
    assert "MatMul" in operator_table("as trained", seconds)
