"""A trained torchvision model -> model.onnx, the inference graph with every size dynamic.

It comes from torch's current exporter (`dynamo=True`). It needs three things that the graph and this file give it:
no `//` or `%` on a size, height and width declared as multiples of 32, and sizes of data-dependent tensors that never
steer Python code.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

from model.network.exporting.constants import fold_constants
from model.network.exporting.example import example
from model.network.exporting.structure import named_tensors, structure
from model.network.graph.inference import SIZE_DIVISOR, InferenceGraph, evaluating
from model.network.graph.nms import ONNX, onnx_grouped_nms
from model.runtime.bundles.writing import naming
from model.runtime.engines.engine import INPUTS

OPSET = 18
"""ONNX operator set: 16 has RoIAlign with `output_half_pixel`, which is torchvision's `aligned=False`."""

HALF_SUFFIX = ".float32"
"""Added to a half-stored weight's name for the tensor that the graph computes with."""

SMALLEST_HALF_STORED = 1024
"""Weights of fewer elements stay float32: they save nothing."""

MOST_TRACED = 8
"""Graphs without weights that are kept, of half a megabyte each."""

_TRACED: dict[bytes, ModelProto] = {}


def export_onnx(model: FasterRCNN, path: Path | str, *, half_storage: bool = False) -> None:
    """Write the model's inference graph as ONNX.

    Inputs `images` [batch, height, width, channels], `sizes` [batch, 2] and `score_threshold` [batch] and outputs as in
    `InferenceGraph`; batch, height and width are dynamic. Weights are initializers under their state_dict names.

    `half_storage` keeps convolution and linear weights as float16 in the file, under the same names, which halves it.
    The runtime casts them to float32 once, when it loads the file: computing stays float32. A weight beyond float16's
    range stays float32.

    The graph is traced once in a process for each network that differs in more than its weights, which takes many times
    as long as to write it.
    """
    graph = InferenceGraph(model, ONNX)
    with evaluating(graph):
        key = traced_structure(graph)
        if key not in _TRACED:
            while len(_TRACED) >= MOST_TRACED:
                del _TRACED[next(iter(_TRACED))]
            _TRACED[key] = _trace(graph)
        proto = _with_weights(_TRACED[key], graph)
    if half_storage:
        store_in_half(proto)
    with naming(Path(path)):
        onnx.save(proto, path)


def traced_structure(graph: InferenceGraph) -> bytes:
    """The digest of what a trace of the graph depends on."""
    heads = graph.roi_heads
    # The graph has its own anchors and plans of the poolers; those are changed by images and by torch's exporter.
    replaced = (
        graph.lowering,
        graph.rpn.anchor_generator,
        heads.box_roi_pool,
        heads.mask_roi_pool,
        heads.keypoint_roi_pool,
    )
    return structure(graph, unread=[part for part in replaced if part is not None])


def _trace(graph: InferenceGraph) -> ModelProto:
    """The graph as ONNX without the weights' values."""
    batch, rows, columns = Dim("batch", min=1), Dim("rows", min=1), Dim("columns", min=1)
    shapes = (
        {0: batch, 1: SIZE_DIVISOR * rows, 2: SIZE_DIVISOR * columns},
        {0: Dim.AUTO},
        {0: Dim.AUTO},
    )
    with _batch_norm_nodes(graph), _garbage_kept(), _shapes_not_kept(), torch.no_grad(), warnings.catch_warnings():
        # torch 2.11 trips over its own deprecation.
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
        program = torch.onnx.export(
            graph,
            example(graph),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=INPUTS,
            output_names=graph.output_names,
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.maskserve.grouped_nms.default: onnx_grouped_nms,
                torch.ops.aten.conv2d.default: _onnx_conv2d,
                torch.ops.torchvision.roi_pool.default: _onnx_roi_pool,
            },
            # It would take minutes to fold batch norm into renamed weights; the runtime does so in a second at load.
            # Constants alone are folded below.
            optimize=False,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns the program when it is given no file"
    fold_constants(program.model)
    proto: ModelProto = program.model_proto
    _strip(proto)
    weights = named_tensors(graph)
    for initializer in proto.graph.initializer:
        if initializer.name in weights:
            initializer.ClearField("raw_data")
    return proto


def _with_weights(traced: ModelProto, graph: InferenceGraph) -> ModelProto:
    proto = ModelProto()
    proto.CopyFrom(traced)
    weights = named_tensors(graph)
    for initializer in proto.graph.initializer:
        if initializer.name in weights:
            values = weights[initializer.name].detach().cpu().numpy()
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    return proto


@contextmanager
def _batch_norm_nodes(module: nn.Module) -> Iterator[None]:
    """Inside the block every FrozenBatchNorm2d computes itself as one batch normalization.

    Its own eight small operations would be exported one by one, and ONNX Runtime does not fold all of them.
    """
    frozen = [part for part in module.modules() if isinstance(part, FrozenBatchNorm2d)]
    for part in frozen:
        part.forward = partial(_as_batch_norm, part)
    try:
        yield
    finally:
        for part in frozen:
            del part.forward


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Inside the block nothing is searched for garbage: the exporter makes a million objects, nearly all of which stay,
    and looking through them again and again is a seventh of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _shapes_not_kept() -> Iterator[None]:
    """Inside the block torch works out the shapes of each operation's results anew: with dynamic sizes, to look them up
    among those of earlier operations is dearer, a fifth of a trace's time."""
    import torch._dynamo.config as tracing  # a second, which only a trace needs

    with tracing.patch(fake_tensor_cache_enabled=False):
        yield


def _as_batch_norm(norm: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps)


def _onnx_conv2d(
    features: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """aten::conv2d in ONNX.

    The exporter's own adds a computed bias of zeros where there is none, which keeps ONNX Runtime from folding the
    batch norm that follows into the convolution: 7 % of a ResNet-50's time.
    """
    from onnxscript import opset18 as op

    inputs = (features, weight) if bias is None else (features, weight, bias)
    pads = [*padding, *padding]
    return op.Conv(*inputs, strides=[*stride], pads=pads, dilations=[*dilation], group=groups)


def _onnx_roi_pool(features: Any, rois: Any, spatial_scale: float, height: int, width: int) -> Any:
    """torchvision::roi_pool in ONNX, which rounds and divides as it does; where the maxima are is not wanted."""
    from onnxscript import opset18 as op

    pooled = op.MaxRoiPool(features, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
    return pooled, op.Constant(value_int=0)


def _strip(proto: ModelProto) -> None:
    """Remove what the exporter notes about its own run: stack traces with local paths, twice the graph's own size."""
    proto.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for initializer in proto.graph.initializer:
        initializer.ClearField("metadata_props")


def is_half_storable(values: NDArray[np.generic]) -> bool:
    """Whether `half_storage` keeps this weight as float16."""
    if values.dtype != np.float32 or values.ndim < 2 or values.size < SMALLEST_HALF_STORED:
        return False
    return bool(np.abs(values).max() <= np.finfo(np.float16).max)


def store_in_half(proto: ModelProto) -> None:
    """Turn an exported network's large weights into float16 initializers behind a Cast, in place."""
    casts, renamed = [], {}
    for initializer in proto.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if not is_half_storable(values):
            continue
        renamed[initializer.name] = initializer.name + HALF_SUFFIX
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), initializer.name))
        casts.append(helper.make_node("Cast", [initializer.name], [renamed[initializer.name]], to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    proto.graph.ClearField("node")
    proto.graph.node.extend([*casts, *nodes])
    # Shapes recorded for the weights named the old type.
    kept = [info for info in proto.graph.value_info if info.name not in renamed]
    proto.graph.ClearField("value_info")
    proto.graph.value_info.extend(kept)
