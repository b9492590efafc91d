"""Which precision a bundle's network computes in: what is asked for, or the fastest that is known to lose nothing."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Final

from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.manifest import (
    INT8_FILE,
    NETWORK_FILE,
    EngineEvaluation,
    Manifest,
    Precision,
    PrecisionChoice,
)
from model.runtime.bundles.network_file import largest_weight
from model.runtime.engines.engine import DeviceChoice, Engine, EngineKind, FloatPrecision, Unavailable
from model.runtime.engines.loading import load_engine
from model.runtime.engines.processor import (
    BF16_FEATURES,
    INT8_FEATURES,
    LARGEST_PAIRED_WEIGHT,
    PAIRED_INT8_FEATURES,
    processor_features,
)

MOST_AP_LOST: Final = 0.002
"""COCO AP (0 to 1), of any kind, that "auto" gives up for speed: 0.2 points, by the engine that computes."""

LEAST_HEAD_ROOM: Final = 2.0
"""How many times as large as on the validation images a network's numbers may get in f16, at least. What overflows is
computed again in f32, so that less would cost time, not answers."""

COMPUTED_BY: Final[dict[EngineKind, tuple[Precision, ...]]] = {
    "onnx": ("f32", "int8"),
    "torchscript": ("f32",),
    "openvino": ("f32", "bf16", "int8"),
    "cuda": ("f32", "f16"),
}
"""What each engine computes in, given the file for it."""

_FASTEST_FIRST: Final[tuple[Precision, ...]] = ("int8", "bf16")

MOST_REMEMBERED: Final = 64
_LARGEST_WEIGHTS: Final[dict[str, int | None]] = {}
"""By the SHA-256 of the network's file, which takes a moment to read and is asked about several times for a start."""

logger = logging.getLogger(__name__)


def choose_precision(
    wanted: PrecisionChoice,
    bundle: Bundle,
    kind: EngineKind = "onnx",
    *,
    on_cpu: bool = True,
    features: Set[str] | None = None,
) -> Precision:
    """What the bundle's network is to compute in.

    "auto" takes the fastest precision that the engine knows, that the processor has instructions for and that is proven
    of this engine (`why_not`). On a GPU that is f16 if the engine is `cuda`, and f32 if not. A bundle whose
    `model.onnx` itself was quantized computes in INT8 whatever is wanted, but bf16 and f16. features: the processor's;
    None asks it.

    Raises Unavailable: the engine or the bundle has not what is asked for. On processors that add products of bytes in
    16 bits it reads the network in INT8, if that may be taken, and raises as `Bundle.read` does.
    """
    features = processor_features() if features is None else features
    manifest = bundle.manifest
    halves = ("bf16", "f16")
    if "f32" not in manifest.network_precisions and wanted not in halves and "int8" in COMPUTED_BY[kind]:
        return "int8"
    if wanted == "auto" and kind == "cuda":
        return "f16" if is_proven(manifest, "f16", kind) else "f32"
    if wanted == "auto":
        return next(
            (
                fast
                for fast in _FASTEST_FIRST
                if on_cpu
                and fast in COMPUTED_BY[kind]
                and instructions(fast, features)
                and why_not(bundle, fast, kind, features) is None
            ),
            "f32",
        )
    if wanted not in COMPUTED_BY[kind]:
        able = [engine for engine, precisions in COMPUTED_BY.items() if wanted in precisions]
        raise Unavailable(
            f"precision {wanted} was asked for, in which the {kind} engine does not compute; choose engine "
            f"{' or '.join(able)}, or precision f32 or auto"
        )
    if wanted == "int8" and INT8_FILE not in manifest.files:
        raise Unavailable(
            f"precision int8 was asked for, but bundle {bundle.path} has no {INT8_FILE}; publish one with: maskserve "
            f"export --bundle {bundle.path} --data DIR --output MODELS --int8 beside, or choose precision f32 or auto"
        )
    if wanted in halves and "f32" not in manifest.network_precisions:
        raise Unavailable(f"precision {wanted} was asked for, but bundle {bundle.path} is in INT8; choose int8 or auto")
    if wanted == "int8" and on_cpu and (reason := why_inexact(bundle, features)) is not None:
        logger.warning(
            "%s/%d computes in INT8, and %s: it can lose more AP than was measured when it was published",
            manifest.name,
            manifest.version,
            reason,
        )
    return wanted


def instructions(precision: Precision, features: Set[str]) -> frozenset[str]:
    """Those of a processor's `features` by which it computes in this precision faster than in float32."""
    if precision == "int8":
        return INT8_FEATURES & features or PAIRED_INT8_FEATURES & features
    return BF16_FEATURES & features if precision == "bf16" else frozenset()


def why_not(bundle: Bundle, precision: Precision, kind: EngineKind, features: Set[str]) -> str | None:
    """Why "auto" may not take a precision in which the processor is faster, in words that go on after "as"; None where
    it may. Raises as `Bundle.read` does."""
    unproven = why_unproven(bundle.manifest, precision, kind)
    return why_inexact(bundle, features) if unproven is None and precision == "int8" else unproven


def why_inexact(bundle: Bundle, features: Set[str]) -> str | None:
    """Why a processor that adds products of bytes in 16 bits may compute otherwise in INT8 than the one on which the
    network was measured, in words that go on after "as"; None on other processors, and of a network that never
    overflows there. Raises as `Bundle.read` does."""
    if INT8_FEATURES & features or not PAIRED_INT8_FEATURES & features:
        return None
    manifest = bundle.manifest
    name = INT8_FILE if INT8_FILE in manifest.files else NETWORK_FILE
    largest = _largest_weight(bundle, name)
    if largest is not None and largest <= LARGEST_PAIRED_WEIGHT:
        return None
    known = f"its weights reach {largest}" if largest is not None else "how large its weights are is not known"
    return f"sums in int8 may overflow on this processor, which has no dot products of bytes ({known})"


def _largest_weight(bundle: Bundle, name: str) -> int | None:
    sha256 = bundle.manifest.files[name].sha256
    if sha256 not in _LARGEST_WEIGHTS:
        while len(_LARGEST_WEIGHTS) >= MOST_REMEMBERED:
            del _LARGEST_WEIGHTS[next(iter(_LARGEST_WEIGHTS))]
        _LARGEST_WEIGHTS[sha256] = largest_weight(memoryview(bundle.read(name)))
    return _LARGEST_WEIGHTS[sha256]


def is_proven(manifest: Manifest, precision: Precision, kind: EngineKind) -> bool:
    """Whether the network was measured in this precision by this engine, and loses at most `MOST_AP_LOST`, in f16 with
    head room. What another engine lost proves nothing, as it rounds elsewhere."""
    return why_unproven(manifest, precision, kind) is None


def why_precision(bundle: Bundle, precision: Precision, kind: EngineKind, features: Set[str] | None = None) -> str:
    """Why "auto" took this precision for this engine on a CPU, in words that go on after its name: what it lost, or
    what is wrong with each that is faster and that the processor has instructions for. features, and what it raises:
    as of `choose_precision`."""
    manifest, features = bundle.manifest, processor_features() if features is None else features
    if "f32" not in manifest.network_precisions:
        return "as it has nothing else"
    if (lost := ap_lost(manifest, precision, kind)) is not None and precision != "f32":
        return f"which lost {100 * max(0.0, lost):.2f} points of AP by {kind} when it was published"
    able = [fast for fast in _FASTEST_FIRST if fast in COMPUTED_BY[kind] and instructions(fast, features)]
    reasons = [why_not(bundle, fast, kind, features) for fast in able]
    return f"as {' and '.join(filter(None, reasons)) or f'nothing is faster by {kind} on this processor'}"


def why_half(manifest: Manifest) -> str:
    """Why "auto" takes f16 on a GPU, or f32, in words that go on after "in"."""
    lost, reason = ap_lost(manifest, "f16", "cuda"), why_unproven(manifest, "f16", "cuda")
    if lost is None or reason is not None:
        return f"f32, as {reason}"
    return f"f16, which lost {100 * max(0.0, lost):.2f} points of AP when it was published"


def ap_lost(manifest: Manifest, precision: Precision, engine: str) -> float | None:
    """The most AP (0 to 1) of any kind that the network loses in this precision by this engine; None where nobody
    measured all. It is compared with float32 of images that were padded alike, and where there is nothing but INT8 with
    ONNX Runtime's, whose loss the export has let through."""
    if manifest.trades is not None and manifest.trades.int8 and precision == "int8":
        exact, other = manifest.trades.ap_deltas, manifest.trades.by(engine)
        return max(exact[name] - other[name] for name in exact) if exact and other.keys() >= exact.keys() else None
    figures = manifest.precisions[precision].by(engine) if precision in manifest.precisions else None
    if figures is None:
        return None
    reference = _float32(manifest, figures.padded_to)
    if reference is None:
        return None
    exact, other = reference.metrics, figures.metrics
    kinds = [name for name in exact if name.endswith("/AP") and exact[name] >= 0]
    if not kinds or not other.keys() >= set(kinds):
        return None
    return max(exact[name] - other[name] for name in kinds)


def why_unproven(manifest: Manifest, precision: Precision, kind: EngineKind) -> str | None:
    """In words that go on after "as"; None where it is proven."""
    what = precision if kind == "cuda" else f"{precision} by {kind}"
    lost = ap_lost(manifest, precision, kind)
    if lost is None:
        known = (one.why for one in manifest.unmeasured if (one.precision, one.engine) == (precision, kind))
        why = next((f" ({why})" for why in known), "")
        return f"what {what} loses was not measured when it was published{why}"
    if lost > MOST_AP_LOST:
        return f"{what} lost {100 * lost:.2f} points of AP when it was published"
    room = _head_room(manifest)
    if precision == "f16" and room < LEAST_HEAD_ROOM:
        return f"its numbers have too little room in f16 (a factor of {room:.2g})"
    return None


def _float32(manifest: Manifest, padded_to: tuple[int, ...]) -> EngineEvaluation | None:
    """Whose figures in float32 are of images that were padded so."""
    f32 = manifest.precisions["f32"]
    return next((one for one in (f32, *f32.other_engines) if one.padded_to == padded_to), None)


def _head_room(manifest: Manifest) -> float:
    """0 where nobody measured it."""
    return manifest.precisions["f16"].head_room or 0.0 if "f16" in manifest.precisions else 0.0


def file_of(manifest: Manifest, precision: Precision) -> str | None:
    """The bundle's file that holds the network in this precision; None: the engine's own, as in f32."""
    return INT8_FILE if precision == "int8" and INT8_FILE in manifest.files else None


def load_in(
    precision: Precision,
    bundle: Bundle,
    kind: EngineKind = "onnx",
    device: DeviceChoice = "auto",
    threads: int | None = None,
    batch_size: int = 1,
) -> Engine:
    """`load_engine` for a precision that `choose_precision` has chosen; raises as it does."""
    rounded: FloatPrecision = "f32" if precision == "int8" else precision
    return load_engine(bundle, kind, device, threads, rounded, file_of(bundle.manifest, precision), batch_size)
