"""What `benchmarks.graph` judges times by: torchvision's answers, the work in them, the machine's rate, a profile."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pycocotools import mask as coco_mask
from torchvision.transforms.functional import to_tensor

from benchmarks.gpu.stages import measure_work
from benchmarks.peers.network import encode
from model.network.graph.inference import InferenceGraph
from model.runtime.detections import RLE, Detections
from model.runtime.engines.onnx import OnnxEngine

SAME_PIXELS, SAME_SCORE, SAME_IOU = 0.1, 1e-3, 0.99
"""A detection is found again with the same label, coordinates and score at most this far, and masks this alike."""

MOST_UNMATCHED = 0.03
"""Share of detections, either way, that the last bit may decide: at the threshold, at NMS's, at the 100th place."""

ALIKE = 0.9
"""IoU from which masks of two precisions are of the same object."""

PRODUCTS = 5
"""Matrix products in one timed call."""

PRODUCT_NAMES = ("product, torch", "product, ONNX Runtime")

CONTAINERS = ("If", "Loop", "Scan")
"""Operators whose time is that of the operators inside them, which the profile lists too."""


class WrongAnswer(Exception):
    """A contender does not answer as torchvision does: its time would mean nothing."""


class TooFewDetections(Exception):
    """An image with nothing to leave out."""


def torchvision_predict(
    model: Any, image: NDArray[np.uint8], threshold: float, *, told: bool = False, bfloat16: bool = False
) -> Detections:
    """Pixels to COCO's strings with torchvision's eager model, its pasting and pycocotools.

    `told`: its own score threshold is `threshold`; otherwise that stays as it is, and the rest is left out afterwards.
    `bfloat16`: under torch's autocast, which takes what may be computed in it.
    """
    heads = model.roi_heads
    own, heads.score_thresh = heads.score_thresh, threshold if told else heads.score_thresh
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            (found,) = model([to_tensor(image)])
    finally:
        heads.score_thresh = own
    kept = found["scores"] > threshold
    if not kept.all():
        found = {name: values[kept] for name, values in found.items()}
    masks = [RLE((image.shape[0], image.shape[1]), rle["counts"].encode()) for rle in encode(found["masks"])]
    boxes, scores = (found[name].float().numpy() for name in ("boxes", "scores"))
    return Detections(boxes, scores, found["labels"].numpy(), masks)


def threshold_for(scores: NDArray[np.float32], most: int) -> float:
    """A threshold that leaves `most` of falling `scores` or a few less: in a wide gap, where no last bit decides.

    TooFewDetections when that leaves nothing to choose from.
    """
    ranks = range(max(1, most // 2), min(most, len(scores) - 1) + 1)
    if not ranks:
        raise TooFewDetections(f"the first image has {len(scores)} detections; choose one with more than {most}")
    rank = max(ranks, key=lambda rank: float(scores[rank - 1] - scores[rank]))
    return float(scores[rank - 1] + scores[rank]) / 2


@dataclass(frozen=True)
class Agreement:
    """How far two answers are the same. Differences are the largest among the pairs, boxes in pixels."""

    detections: int
    unmatched_share: float
    box_difference: float
    score_difference: float
    mask_iou: float


def agree(answer: Detections, reference: Detections) -> Agreement:
    """Pairs the detections, of the same image. WrongAnswer when more than `MOST_UNMATCHED` of either are left over."""
    free = np.ones(len(answer), bool)
    boxes, scores, ious = [], [], []
    for index in range(len(reference)):
        distance = np.abs(answer.boxes - reference.boxes[index]).max(axis=1, initial=0)
        apart = np.abs(answer.scores - reference.scores[index])
        alike = free & (answer.labels == reference.labels[index]) & (distance <= SAME_PIXELS) & (apart <= SAME_SCORE)
        for other in sorted(np.flatnonzero(alike).tolist(), key=lambda row: float(distance[row])):
            iou = _iou(_mask(answer, other), _mask(reference, index))
            if iou >= SAME_IOU:
                free[other] = False
                boxes.append(float(distance[other]))
                scores.append(float(apart[other]))
                ious.append(iou)
                break
    longer = max(len(answer), len(reference))
    unmatched = 1 - len(boxes) / longer if longer else 1.0
    if unmatched > MOST_UNMATCHED:
        raise WrongAnswer(
            f"{len(boxes)} of {len(reference)} detections are found again among {len(answer)}: same label, within "
            f"{SAME_PIXELS} px and {SAME_SCORE} of the score, mask IoU {SAME_IOU} or more"
        )
    return Agreement(len(reference), unmatched, max(boxes), max(scores), min(ious))


def found_again(answer: Detections, reference: Detections) -> float:
    """Share of the reference's detections of which `answer` has one of the same label, with masks `ALIKE` or more.

    For what was computed in another precision, where scores move and the last of many detections are others.
    """
    if not len(reference):
        return 1.0
    if not len(answer):
        return 0.0
    ours, theirs = (
        [{"size": list(rle.size), "counts": rle.counts} for rle in found.masks or ()] for found in (answer, reference)
    )
    ious = coco_mask.iou(ours, theirs, [False] * len(theirs))
    alike = (ious >= ALIKE) & (answer.labels[:, None] == reference.labels[None])
    return float(alike.any(axis=0).mean())


def _mask(found: Detections, index: int) -> RLE:
    assert found.masks is not None
    return found.masks[index]


def _iou(a: RLE, b: RLE) -> float:
    if a == b:
        return 1.0
    pair = [{"size": list(rle.size), "counts": rle.counts} for rle in (a, b)]
    return float(coco_mask.iou(pair[:1], pair[1:], [False])[0, 0])


def count_flops(model: Any, pixels: NDArray[np.uint8], sizes: NDArray[np.int64], threshold: float) -> float:
    """Operations of one batch in the graph that is exported, a multiply-add as two. Work not asked for is not done."""
    graph = InferenceGraph(model).eval()
    graph.mask_parts = 1  # with fewer detections than parts, some are computed more than once
    inputs = torch.tensor(pixels), torch.tensor(sizes), torch.full((len(pixels),), threshold)
    return measure_work(lambda: graph(*inputs)).flops


def products(side: int, threads: int) -> dict[str, Callable[[], object]]:
    """`PRODUCTS` float32 matrix products of `side`, by torch (on its present threads) and by ONNX Runtime; warm.

    The second factor is a constant of ONNX Runtime's, which may rearrange it beforehand, as a network's weights.
    """
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((side, side), np.float32) for _ in range(2))
    first, second = torch.from_numpy(a), torch.from_numpy(b)
    result = torch.empty_like(first)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [side, side])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [side, side])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads must not go on spinning into the next contender's turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def in_torch() -> None:
        for _ in range(PRODUCTS):
            torch.mm(first, second, out=result)

    def in_onnx_runtime() -> None:
        for _ in range(PRODUCTS):
            session.run(None, {"a": a})

    in_torch()
    in_onnx_runtime()
    return dict(zip(PRODUCT_NAMES, (in_torch, in_onnx_runtime), strict=True))


@dataclass(frozen=True)
class Share:
    """What part of the machine's rate something reaches that does `gflop` in `seconds`."""

    gflop: float
    seconds: float
    gflop_per_second: float
    share: float


@dataclass(frozen=True)
class Work:
    """`rate`: GFLOP/s of the faster library's matrix products; `shares` by contender."""

    products: Mapping[str, float]
    rate: float
    shares: Mapping[str, Share]


def weigh(flops: float, medians: Mapping[str, float], side: int) -> Work:
    """`medians`: seconds a call by contender, `products` of `side` among them; each other one does `flops`."""
    gflop = flops / 1e9
    rates = {name: PRODUCTS * 2 * side**3 / medians[name] / 1e9 for name in PRODUCT_NAMES}
    rate = max(rates.values())
    shares = {
        name: Share(gflop, seconds, gflop / seconds, gflop / seconds / rate)
        for name, seconds in medians.items()
        if name not in rates
    }
    return Work(rates, rate, shares)


@dataclass(frozen=True)
class Operator:
    """All operators of one type in one run; `share` is of the run's time."""

    calls: float
    milliseconds: float
    share: float


class Profiled:
    """The network of an engine again, in a session with ONNX Runtime's profiler. `run` as often as wanted, then `end`.

    `folder` gets the profile.
    """

    def __init__(self, engine: OnnxEngine, file: Path, folder: Path) -> None:
        assert engine._session is not None
        options = engine._session.get_session_options()  # a copy: threads and all else are the engine's
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(self, *inputs: NDArray[Any]) -> None:
        """One batch."""
        names = [value.name for value in self._session.get_inputs()]
        self._session.run(None, dict(zip(names, inputs, strict=True)))

    def end(self, runs: int) -> dict[str, Operator]:
        """The mean of the last `runs` runs by operator type, the longest first; what is between them has a row too."""
        events = json.loads(Path(self._session.end_profiling()).read_text())
        times = [event for event in events if event.get("name") == "model_run"][-runs:]
        whole = sum(event["dur"] for event in times)
        spent: dict[str, list[int]] = defaultdict(list)
        for event in events:
            kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
            if kernel and event["ts"] >= times[0]["ts"] and event["args"]["op_name"] not in CONTAINERS:
                spent[event["args"]["op_name"]].append(event["dur"])
        rows = sorted(spent.items(), key=lambda row: -sum(row[1]))
        found = {name: Operator(len(each) / runs, sum(each) / runs / 1e3, sum(each) / whole) for name, each in rows}
        rest = whole - sum(sum(each) for each in spent.values())
        return {**found, "between operators": Operator(0, rest / runs / 1e3, rest / whole)}
