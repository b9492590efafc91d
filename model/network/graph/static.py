"""The inference graph with fixed shapes and no host synchronization, so that a GPU can replay it as one CUDA graph.

`InferenceGraph` does no work for slots without a box, and pays for it with a synchronization wherever the number of
boxes decides a shape. Here every slot is computed. Suppression runs on matrices of IoUs, a fixed number of rounds, over
a fixed number of candidates; whether that was enough to be exact is one of the outputs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from model.network.graph.boxes import clip, decode, has_sides
from model.network.graph.canvas import Canvases
from model.network.graph.indexing import positions, rows
from model.network.graph.inference import MIN_DETECTION_SIDE, InferenceGraph
from model.network.graph.nms import SUPPRESSED, float32_threshold
from model.network.graph.pooling import PoolPlan

CANDIDATES = 1024
"""Pairs of (proposal, class) of an image that take part in suppression: those with the best scores."""

ROUNDS = 24
"""Rounds of suppression. Chains of boxes that overlap only their neighbors settle one box a round."""

OUTSIDE = -1e5
"""A coordinate so far outside of every image that RoIAlign and RoIPool give zeros there."""


class Kept(NamedTuple):
    """keep: bool [G, K]. settled: bool [G], whether another round would have changed nothing."""

    keep: Tensor
    settled: Tensor


def suppress(
    boxes: Tensor, takes_part: Tensor, iou_threshold: float, labels: Tensor | None = None, rounds: int = ROUNDS
) -> Kept:
    """Greedy NMS of each group at once, without a synchronization.

    boxes: float32 [G, K, 4] by falling score; takes_part: bool [G, K]; labels: int64 [G, K], a box suppresses only
    those of its own label.

    Each round asks which boxes a better box of the last round's survivors overlaps. What a box's fate hangs on is all
    above it, so the first n are final after n rounds, and usually everything is after a few.
    """
    x1, y1, x2, y2 = (side.unsqueeze(2) for side in boxes.unbind(2))
    area = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2, x2.mT) - torch.maximum(x1, x1.mT)
    height = torch.minimum(y2, y2.mT) - torch.maximum(y1, y1.mT)
    shared = width.clamp(min=0) * height.clamp(min=0)
    overlaps = shared / (area + area.mT - shared) > float32_threshold(iou_threshold)
    if labels is not None:
        overlaps = overlaps & (labels.unsqueeze(2) == labels.unsqueeze(1))
    # Counting in float16 is for the matrix units; a count too large for it is infinite, which is above zero too.
    number = torch.float16 if boxes.is_cuda else torch.float32
    beats = overlaps.triu(1).to(number)
    keep = before = takes_part
    for _ in range(rounds):
        before = keep
        hits = (keep.to(number).unsqueeze(1) @ beats).squeeze(1)
        keep = takes_part & ~(hits > 0)
    return Kept(keep, (keep == before).all(1))


def pool_every_slot(
    plan: PoolPlan, pyramid: dict[str, Tensor], boxes: Tensor, image: Tensor, moved: Tensor | None = None
) -> Tensor:
    """RoIAlign or RoIPool of boxes float32 [S, 4] of images int64 [S], each on its own level: float32 [S, C, h, w].

    moved: float32 [B, 2], (x, y) in pixels, how much further to the right and down each image is in the pyramid.

    Each level is asked for every slot; where a slot belongs to another one its box lies outside, which costs no reading
    and adds zero.
    """
    # Of an overflow: the operators read wherever a box is, and that may be no memory of theirs.
    boxes = torch.where(boxes.isnan(), 0.0, boxes)
    x1, y1, x2, y2 = boxes.unbind(1)
    side = torch.sqrt((x2 - x1) * (y2 - y1))
    if moved is not None:
        boxes = boxes + rows(moved, image).repeat(1, 2)
    pooled: Tensor | None = None
    for i, (name, stride) in enumerate(plan.levels):
        here = torch.ones_like(side, dtype=torch.bool)
        if i > 0:
            here = here & (side >= plan.bounds[i - 1])
        if i < len(plan.bounds):
            here = here & ~(side >= plan.bounds[i])
        rois = torch.cat(
            (image.unsqueeze(1).to(boxes.dtype), torch.where(here.unsqueeze(1), boxes, OUTSIDE)),
            dim=1,
        )
        arguments = (pyramid[name], rois, 1 / stride, *plan.output_size)
        if plan.sampling_ratio is None:
            part: Tensor = torch.ops.torchvision.roi_pool(*arguments)[0]
        else:
            part = torch.ops.torchvision.roi_align(*arguments, plan.sampling_ratio, False)
        pooled = part if pooled is None else pooled.add_(part)
    assert pooled is not None, "a pooler has at least one level"
    return pooled


class StaticGraph(InferenceGraph):
    """`InferenceGraph` whose shapes depend on its inputs' shapes alone.

    forward takes what `InferenceGraph.forward` takes, and as `canvases`, int64 [B, 2], the (height, width) of what each
    image is padded to, multiples of 32 pixels: it is answered as in a batch of that size, however large H and W are.
    None: they are that size. It returns, for D = detections_per_image places an image:
        boxes float32 [B, D, 4], scores float32 [B, D] falling and -inf where there is no detection, labels int64
        [B, D], exact bool [B], whether the image's answer is `InferenceGraph`'s, finite bool [B], whether no layer gave
        it a number too large for its type; with a mask head also probabilities [B, D, M, M], with a keypoint head
        heatmap logits [B, D, K, S, S].

    `dtype` is what backbone and heads compute in, `layout` what the backbone is given: `halve` of
    `model.network.graph.half` sets both with the weights; pooling, boxes and scores are float32.
    """

    def __init__(self, model: FasterRCNN, candidates: int = CANDIDATES, rounds: int = ROUNDS) -> None:
        super().__init__(model)
        self.candidates = min(max(candidates, self.detections_per_image), self.proposals_per_image * self.classes)
        self.rounds = rounds
        self.dtype = torch.float32
        self.layout = torch.contiguous_format
        self._settled = torch.empty(0, dtype=torch.bool)
        self._finite = torch.empty(0, dtype=torch.bool)
        self._canvases: Canvases | None = None

    @property
    def static_output_names(self) -> list[str]:
        """Of what `forward` returns."""
        return ["boxes", "scores", "labels", "exact", "finite", *self.output_names[4:]]

    def forward(
        self, images: Tensor, sizes: Tensor, score_threshold: Tensor, canvases: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        pixels = self._pixels(images, sizes, canvases)
        pyramid = {name: self._look_at(level) for name, level in self._pyramid(pixels).items()}
        height, width = sizes.to(torch.float32).unbind(1)
        limits = torch.stack((width, height, width, height), dim=1)
        proposals, is_proposal = self._proposals(pixels, pyramid, limits)
        exact = self._settled.unflatten(0, (len(images), -1)).all(1)
        # RoIAlign takes its boxes in the type of its features, and float16 has steps of a pixel at 1,333.
        pyramid = {name: self._for_pooling(level) for name, level in pyramid.items()}
        boxes, scores, labels, complete = self._best(pyramid, proposals, is_proposal, limits, score_threshold)
        maps = []
        if self.mask_pool is not None:
            features = self._pooled(self.mask_pool, pyramid, boxes)
            maps.append(self._answer(self._masks(features, labels.flatten()), scores))
        if self.keypoint_pool is not None:
            features = self.roi_heads.keypoint_head(self._pooled(self.keypoint_pool, pyramid, boxes))
            heatmaps = self._look_at(self.roi_heads.keypoint_predictor(features))
            maps.append(self._answer(heatmaps, scores))
        return boxes, scores, labels, exact & complete, self._finite, *maps

    def _pixels(self, images: Tensor, sizes: Tensor, canvases: Tensor | None = None) -> Tensor:
        """What the backbone is given; nothing is known of these images yet."""
        self._finite = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self._canvases = None if canvases is None else Canvases(canvases, (images.shape[1], images.shape[2]))
        return self._normalize(images, sizes).to(self.dtype, memory_format=self.layout)

    def _in_canvases(self) -> AbstractContextManager[object]:
        return nullcontext() if self._canvases is None else self._canvases

    def _pyramid(self, pixels: Tensor) -> dict[str, Tensor]:
        with self._in_canvases():
            return super()._pyramid(pixels)

    def _objectness(self, pyramid: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        with self._in_canvases():
            answers = super()._objectness(pyramid)
        if self._canvases is None:
            return answers
        beyond = self._canvases.outside  # where the canvas has no anchors
        return [(logits.masked_fill(beyond(logits), SUPPRESSED), deltas) for logits, deltas in answers]

    def _anchors_at(self, level: int, pixels: Tensor, level_map: Tensor, position: Tensor) -> Tensor:
        if self._canvases is None:
            return super()._anchors_at(level, pixels, level_map, position)
        cells = self.get_buffer(f"cell_anchors_{level}")
        place, columns = position // len(cells), level_map.shape[3]
        down, right = self._canvases.spacing(level_map).unsqueeze(1).unbind(2)
        x, y = place % columns * right, place // columns * down
        shifts = torch.stack((x, y, x, y), dim=2).to(torch.float32).flatten(0, 1)
        return shifts + rows(cells, (position % len(cells)).flatten())

    def _look_at(self, answers: Tensor) -> Tensor:
        """`answers` [B * n, ...] of B images. An infinity among them, and a NaN, is in their sum; float32 has room for
        the sum of all else. What overflows between two places that are looked at is seen if an infinity or a NaN is
        left of it there: one of minus infinity that a ReLU makes 0 is not."""
        sums = answers.sum(tuple(range(1, answers.ndim)), dtype=torch.float32)
        self._finite = self._finite & sums.unflatten(0, (len(self._finite), -1)).sum(1).isfinite()
        return answers

    def _answer(self, maps: Tensor, slots: Tensor) -> Tensor:
        # NumPy has no bfloat16.
        dtype = torch.float32 if self.dtype == torch.float32 else torch.float16
        answer: Tensor = maps.to(dtype).unflatten(0, slots.shape)
        return answer

    def _for_pooling(self, level: Tensor) -> Tensor:
        if self._canvases is not None:
            level = self._canvases.at_the_end(level)
        return level.to(torch.float32, memory_format=torch.contiguous_format)

    def _suppress_proposals(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """As many rows as boxes, which come by falling score: those suppressed name a better one again, which is kept
        (or, in an empty group, one that takes no part)."""
        takes_part = scores > SUPPRESSED
        keep, self._settled = suppress(boxes, takes_part, self.rpn.nms_thresh, rounds=self.rounds)
        row = positions(scores.flatten(), 0).view_as(scores)
        best = takes_part.to(torch.float32).argmax(1, keepdim=True) + row[:, :1]
        return torch.where(keep, row, best).flatten()

    def _pooled(self, plan: PoolPlan, pyramid: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """boxes [B, S, 4] -> features [B * S, C, h, w]."""
        image = positions(boxes, 0).unsqueeze(1).expand(-1, boxes.shape[1]).flatten()
        moved = None if self._canvases is None else self._canvases.moved
        return pool_every_slot(plan, pyramid, boxes.flatten(0, 1), image, moved).to(self.dtype)

    def _best(
        self,
        pyramid: dict[str, Tensor],
        proposals: Tensor,
        is_proposal: Tensor,
        limits: Tensor,
        score_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [B, D, 4], scores [B, D], labels [B, D], and whether they are the exact answer, bool [B]."""
        heads = self.roi_heads
        class_logits, deltas = heads.box_predictor(heads.box_head(self._pooled(self.box_pool, pyramid, proposals)))
        class_logits, deltas = self._look_at(class_logits), self._look_at(deltas)
        # Class 0 is the background.
        scores = class_logits.to(torch.float32).softmax(1).narrow(1, 1, self.classes)
        scores = scores.unflatten(0, is_proposal.shape)
        takes_part = is_proposal.unsqueeze(2) & (scores > score_threshold.unflatten(0, (-1, 1, 1)))
        ranked = torch.where(takes_part, scores, SUPPRESSED).flatten(1)
        scores, position = self.lowering.top_k(ranked, self.candidates)

        # Boxes of the candidates alone: a proposal has one for each class.
        row, label = position // self.classes, position % self.classes + 1
        deltas = deltas.unflatten(0, is_proposal.shape).flatten(2).unflatten(2, (-1, 4)).flatten(1, 2)
        deltas = _pick(deltas, row * (self.classes + 1) + label).to(torch.float32)
        boxes = clip(decode(deltas, _pick(proposals, row), heads.box_coder), limits.unsqueeze(1))
        candidate = (scores > SUPPRESSED) & has_sides(boxes, MIN_DETECTION_SIDE)
        keep, settled = suppress(boxes, candidate, heads.nms_thresh, label, self.rounds)

        # Those left out score less than every candidate, so they only matter where candidates fill not every place.
        complete = (takes_part.flatten(1).sum(1) <= self.candidates) | (keep.sum(1) >= self.detections_per_image)
        scores, position = self.lowering.top_k(torch.where(keep, scores, SUPPRESSED), self.detections_per_image)
        return _pick(boxes, position), scores, label.gather(1, position), settled & complete


def _pick(values: Tensor, position: Tensor) -> Tensor:
    """values [B, N, 4], position int64 [B, k] -> [B, k, 4]."""
    return values.gather(1, position.unsqueeze(2).expand(-1, -1, 4))
