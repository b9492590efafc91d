"""What the network found, as the request wants it; on the postprocess threads, but for what is little."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections, RawDetections
from model.runtime.preprocess import Prepared, count_wanted, to_original
from service.observability.metrics import ScoreCounts
from service.prediction.answers import Seen
from service.prediction.decoding import Job
from service.prediction.parameters import MOST_IN_TILES
from service.prediction.tiles import InTiles

SMALL = 2048
"""What an answer may cost that is made on the event loop, in columns of masks: 0.3 ms, or 3 ms if they are ragged."""
COLUMNS_PER_DETECTION = 32
"""What a detection costs besides the columns of its mask."""


def is_small(job: Job, prepared: Prepared, raw: RawDetections) -> bool:
    """Whether the answer takes less time than a thread takes to begin it: few detections with narrow masks, which only
    have to be written down.
    """
    if not job.is_light or raw.keypoint_heatmaps is not None:
        return False
    columns = float(COLUMNS_PER_DETECTION * len(raw.scores))
    if columns <= SMALL and job.options.masks != "none" and raw.masks is not None:
        scale = prepared.original[1] / prepared.valid[1]
        columns += scale * float((raw.boxes[:, 2] - raw.boxes[:, 0]).sum())
    return columns <= SMALL


def see_whole(job: Job, prepared: Prepared, raw: RawDetections) -> Seen:
    """The detections of an image that the network saw at once."""
    options, manifest = job.options, job.model.manifest
    most = manifest.defaults.max_detections if options.max_detections is None else options.max_detections
    found = count_wanted(raw, labels=options.label_ids, score_thresholds=options.score_thresholds)
    detections = to_original(
        raw,
        prepared,
        max_detections=most,
        labels=options.label_ids,
        score_thresholds=options.score_thresholds,
        want_masks=options.masks != "none",
    )
    return Seen(detections, found > most or len(raw.scores) >= manifest.architecture.detections_per_image)


def see_tiles(job: Job, in_tiles: InTiles) -> Seen:
    """The best detections of a picture in tiles."""
    most = MOST_IN_TILES if job.options.max_detections is None else job.options.max_detections
    found = in_tiles.detections
    best = Detections(
        found.boxes[:most],
        found.scores[:most],
        found.labels[:most],
        None if found.masks is None or job.options.masks == "none" else found.masks[:most],
        None if found.keypoints is None else found.keypoints[:most],
    )
    return Seen(best, len(found) > most or in_tiles.full, in_tiles.tiles)


def score_counts_of(
    job: Job, scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[tuple[str, ScoreCounts]] | None:
    """By label, the scores that an image has at the model's own thresholds, whatever the request asked for.

    None where they are not known: the request's threshold kept the network from finding all, or the scale was its
    choice. (Tiles, whose scale is that, too, are not counted at all.)
    """
    model, defaults = job.model, job.model.manifest.defaults
    own = model.score_thresholds
    lowest = defaults.score_threshold if own is None else float(own[1:].min())
    if job.options.score_threshold > lowest or job.options.scale is not None:
        return None
    kept = scores > (np.float32(lowest) if own is None else own[labels])
    scores, labels = scores[kept][: defaults.max_detections], labels[kept][: defaults.max_detections]
    return [
        (model.label_names[label], ScoreCounts.of(scores[labels == label])) for label in sorted(set(labels.tolist()))
    ]
