"""From a bundle to the engine `cuda`, or to the reason why there is none."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Final, Literal

import torch
import torchvision

from model.network.build import Detector
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.graph.static import StaticGraph
from model.network.serving.checking import check_engine, check_references
from model.network.serving.engine import StaticEngine
from model.network.serving.place import Gpu, Place, telling_short_memory
from model.network.weights import load_network
from model.runtime.buckets import Buckets
from model.runtime.bundles.bundle import Bundle, MissingFile
from model.runtime.bundles.references import References, read_references
from model.runtime.engines.devices import gpu_index
from model.runtime.engines.engine import Unavailable, no_device
from model.runtime.preprocess import Preprocessing

Computed = Literal["f32", "f16", "bf16"]
DTYPES: Final[dict[Computed, torch.dtype]] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def start(bundle: Bundle, device: str, precision: Computed, batch_size: int) -> StaticEngine:
    """The engine for a bundle on a GPU, with the commonest buckets captured, checked there against float32 on the CPU,
    and against the reference answers that the bundle may hold.

    device: "auto", "cuda" or "cuda:N". batch_size: the most images of a batch, and what batches are filled up to.

    Raises Unavailable: no such GPU, or a bundle without weights in float32; BundleError: they are not its
    architecture's, or there are no references in their file; EngineError: the GPU does not compute what it should;
    DeviceLost: it has failed meanwhile.
    """
    if reason := why_no_gpu(gpu_index(device)):
        raise no_device(device, reason, "the onnx engine, or another GPU")
    try:
        model = load_network(bundle)
    except MissingFile as error:
        raise Unavailable(str(error)) from error
    references = read_references(bundle)
    # Float32 is that, and not TF32's 10 bits: for the answers that are computed once more above all.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # And sums are float32 in half precision too, as they were when its AP was measured.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    place = Gpu(gpu_index(device), "cuda" if device == "auto" else device)
    return start_at(place, model, bundle.manifest.preprocessing, precision, batch_size, references)


def start_at(
    place: Place,
    model: Detector,
    preprocessing: Preprocessing,
    precision: Computed,
    batch_size: int,
    references: References | None = None,
) -> StaticEngine:
    """`start` of a model on the CPU, which is moved to the place. Raises EngineError."""
    reference = StaticGraph(copy.deepcopy(model)).eval()
    buckets = Buckets(preprocessing)
    with place.turn():
        model = model.to(place.device)
        engine = StaticEngine(
            halve(model, DTYPES[precision]),
            place,
            exact=InferenceGraph(model).eval(),
            batch_size=batch_size,
            buckets=buckets,
            eager_meanwhile=True,
        )
    try:
        with engine.telling_loss():
            engine.prepare(every_bucket=False)
            check_engine(engine, reference, min(buckets.commonest))
            if references is not None:
                check_references(engine, references)
    except BaseException:
        engine.close()
        raise
    return engine


def why_no_gpu(index: int) -> str | None:
    """Why torch cannot compute on the GPU of that number, in one line; None if nothing is in the way."""
    try:
        return _why_no_gpu(index)
    except torch.OutOfMemoryError as error:  # which may be otherwise when somebody asks again
        return f"its memory is full: {str(error).splitlines()[0]}"


@cache
def _why_no_gpu(index: int) -> str | None:
    """As above. Raises torch.OutOfMemoryError."""
    if not torch.backends.cuda.is_built():
        return f"this torch ({torch.__version__}) is built without CUDA"
    with warnings.catch_warnings(record=True) as caught:  # it warns of what it finds missing
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= gpus:
        seen = f"{gpus} of them, numbered from 0" if gpus else "no GPU"
        why = f" ({' '.join(str(caught[0].message).split())})" if caught and not gpus else ""
        return f"torch sees {seen}{why}"
    try:
        _compute_on(torch.device("cuda", index))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # such as a GPU that this torch has no kernels for
        return f"torch cannot compute on it: {str(error).splitlines()[0]}"
    return None


def _compute_on(device: torch.device) -> None:
    """Raises RuntimeError where torch cannot, or torchvision, which may have been built for CPUs alone, and where
    memory is short torch.OutOfMemoryError."""
    with telling_short_memory():  # the first product makes cuBLAS' handle
        ones = torch.ones(8, 8, device=device, dtype=torch.float16)
        (ones @ ones).tolist()
        torchvision.ops.nms(torch.ones(1, 4, device=device), torch.ones(1, device=device), 0.5).tolist()
