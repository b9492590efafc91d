"""Whether a graph computes here, on this device, what it should: looked at before it answers anybody.

Whole answers alone can't tell. Where proposals differ from each other by little, rounding lets others through: right
code with random weights found 32 % of torchvision's detections again in float16 (a CPU, 256x320). So layers are
compared too, where rounding isn't magnified: before suppression chooses and ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.network.graph.static import StaticGraph
from model.network.serving.comparing import LEAST_ALIKE, alike, found_again, reference_images
from model.network.serving.engine import StaticEngine
from model.runtime.bundles.references import Answers, References
from model.runtime.engines.engine import EngineError
from model.runtime.images.picture import Size

Turn = Callable[[], AbstractContextManager[None]]

MOST_ERROR: Final = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest |out - reference| / |reference| of a layer, by what it computes in."""


@torch.no_grad()
def layer_errors(
    reference: StaticGraph,
    graph: StaticGraph,
    images: Tensor,
    sizes: Tensor,
    turn: Turn = nullcontext,
    copies: int = 1,
) -> dict[str, float]:
    """Relative error by layer: each level of the pyramid, and on equal proposals the heads.

    The graphs may be on different devices. images uint8 [B, H, W, C] and sizes int64 [B, 2] may be on any. turn: held
    while `graph` computes, and not while the reference does, which may take long. copies: of the images in the batch
    that `graph` computes, for kernels are chosen by its size; the first counts.
    """
    layers = []
    proposals: Tensor | None = None
    in_turn: tuple[tuple[StaticGraph, Turn, int], ...] = ((reference, nullcontext, 1), (graph, turn, copies))
    for each, held, times in in_turn:
        with held():
            device = each.image_mean.device
            pixels = each._pixels(images.to(device).repeat(times, 1, 1, 1), sizes.to(device).repeat(times, 1))
            pyramid = each._pyramid(pixels)
            if proposals is None:
                height, width = sizes.to(device, torch.float32).unbind(1)
                limits = torch.stack((width, height, width, height), dim=1)
                proposals, _ = each._proposals(pixels, pyramid, limits)
            found = {f"level {name}": level for name, level in pyramid.items()}
            found |= _heads(each, pyramid, proposals.to(device).repeat(times, 1, 1))
            layers.append({name: value[: len(value) // times].cpu() for name, value in found.items()})
    return {name: _error(layers[1][name], value) for name, value in layers[0].items()}


def check_engine(engine: StaticEngine, reference: StaticGraph, size: Size) -> None:
    """Compare an engine that is prepared for images of this size, a bucket, with a float32 graph on the CPU.

    Raises EngineError: a layer is too far from float32's, a replayed batch is not what its kernels compute one by one,
    or an image is answered otherwise in another place of its batch. Each is looked at in all of them.
    """
    graph, batch = engine.graph, engine.batch_of(size)
    images = reference_images(batch, size, graph.channels)
    sizes = np.array([size] * batch, np.int64)
    first = torch.from_numpy(images[:1]), torch.from_numpy(sizes[:1])
    errors = layer_errors(reference, graph, *first, engine.turn, batch)
    most = MOST_ERROR[graph.dtype]
    if far := {name: error for name, error in errors.items() if not error < most}:  # NaN is too far
        layers = ", ".join(f"{name} by {error:.2g}" for name, error in far.items())
        raise EngineError(
            f"on {engine.device} the network is not what it is in float32: {layers} (of 1; at most {most:g}); choose "
            "precision f32, or the onnx engine"
        )
    thresholds = np.zeros(batch, np.float32)
    answer = engine.run(images, sizes, thresholds)
    others = [(0, engine.run_eagerly(images, sizes, thresholds))]
    others += [(places, engine.run(np.roll(images, places, axis=0), sizes, thresholds)) for places in range(1, batch)]
    for places, other in others:
        for index in range(batch):
            share = alike(answer.of_image(index), other.of_image((index + places) % batch))
            if share < LEAST_ALIKE:
                how = f"{places} places further in its batch of {batch}" if places else "kernel by kernel"
                raise EngineError(
                    f"on {engine.device} the same image is answered otherwise when it is computed {how}: {share:.0%} "
                    "of its detections are the same; choose the onnx engine"
                )


def check_references(engine: StaticEngine, references: References) -> None:
    """Compare an engine with the answers in float32 that a bundle holds, and the graph that answers again with those of
    the image in which most was found.

    Raises EngineError, which names the image that is furthest from them, where the detections of all are too few.
    """
    threshold = np.full(1, references.score_threshold, np.float32)
    shares = []
    for index in range(len(references)):
        one = slice(index, index + 1)
        raw = engine.run_eagerly(references.images[one], references.sizes[one], threshold)
        shares.append(found_again(references.answers.of_image(index), Answers.of(raw), references.score_threshold))
    again, detections = (sum(counts) for counts in zip(*shares, strict=True))
    if again < LEAST_ALIKE * detections:
        worst = min(range(len(shares)), key=lambda index: shares[index][0] / max(1, shares[index][1]))
        raise EngineError(
            f"on {engine.device} reference image {worst + 1} of {len(references)} is not answered as in float32 when "
            f"the bundle was published: of its detections, then and now, {shares[worst][0]} of {shares[worst][1]} are "
            f"the same (of all images' {again / detections:.0%}; at least {LEAST_ALIKE:.0%}); choose precision f32, or "
            "the onnx engine"
        )
    most = int(np.bincount(references.answers.image_index, minlength=len(references)).argmax())
    one = slice(most, most + 1)
    exact = engine.run_exactly(references.images[one], references.sizes[one], threshold)
    if exact is None:
        return
    of_image = references.answers.of_image(most)
    again, detections = found_again(of_image, Answers.of(exact), references.score_threshold)
    if again < LEAST_ALIKE * detections:
        raise EngineError(
            f"on {engine.device} the network in float32, which answers again, answers reference image {most + 1} of "
            f"{len(references)} otherwise than when the bundle was published: of its detections, then and now, {again} "
            f"of {detections} are the same; choose the onnx engine"
        )


def _heads(graph: StaticGraph, pyramid: dict[str, Tensor], proposals: Tensor) -> dict[str, Tensor]:
    """What the heads make of proposals [B, P, 4]: features of the box head, class logits, box deltas, and features of
    the other heads."""
    heads = graph.roi_heads
    levels = {name: graph._for_pooling(level) for name, level in pyramid.items()}
    features = heads.box_head(graph._pooled(graph.box_pool, levels, proposals))
    logits, deltas = heads.box_predictor(features)
    answers = {"box head": features, "classes": logits, "boxes": deltas}
    if graph.mask_pool is not None:
        answers["mask head"] = heads.mask_head(graph._pooled(graph.mask_pool, levels, proposals[:, :8]))
    if graph.keypoint_pool is not None:
        answers["keypoint head"] = heads.keypoint_head(graph._pooled(graph.keypoint_pool, levels, proposals[:, :8]))
    return answers


def _error(answer: Tensor, reference: Tensor) -> float:
    exact = reference.double()
    return float((answer.double() - exact).norm() / exact.norm())
