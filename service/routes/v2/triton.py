"""What Triton adds to the Open Inference Protocol and its clients ask for: a model's configuration and statistics."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from model.runtime.engines.devices import gpu_index
from model.runtime.engines.engine import MODEL_FILES
from model.runtime.engines.precision import file_of
from service.models.catalog import ServedModel
from service.observability.by_version import Deeds, Total
from service.prediction.lifecycle import lifecycle_of
from service.routes.openapi import MODEL_RESPONSES, problem_responses
from service.routes.schemas import Version
from service.routes.v2.schemas import IMAGE, PLATFORMS, TensorMetadata, output_tensors

BACKENDS: Final = {"onnx": "onnxruntime", "torchscript": "pytorch", "openvino": "openvino"}
"""Engine name -> Triton's name for what runs it."""
TYPES: Final = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}

router = APIRouter(prefix="/v2/models", tags=["Open Inference Protocol v2"])


class ConfigTensor(BaseModel):
    name: str
    data_type: str
    dims: tuple[int, ...] = Field(description="-1 for a length that varies")

    @classmethod
    def of(cls, tensor: TensorMetadata) -> ConfigTensor:
        return cls(name=tensor.name, data_type=TYPES[tensor.datatype], dims=tensor.shape)


class InstanceGroup(BaseModel):
    """An engine."""

    name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int = 1
    gpus: list[int]


class LatestVersions(BaseModel):
    num_versions: int


class VersionPolicy(BaseModel):
    latest: LatestVersions


class Parameter(BaseModel):
    string_value: str


class ModelConfig(BaseModel):
    """`GET /v2/models/NAME/config`."""

    name: str
    platform: str
    backend: str
    version_policy: VersionPolicy
    max_batch_size: int = Field(
        0, description="0, as Triton has it for tensors without a batch's axis: the outputs are flat over all images"
    )
    input: tuple[ConfigTensor, ...]
    output: tuple[ConfigTensor, ...]
    instance_group: list[InstanceGroup]
    default_model_filename: str
    parameters: dict[str, Parameter]


class Duration(BaseModel):
    count: int
    ns: int = Field(description="nanoseconds of all of them")

    @classmethod
    def of(cls, total: Total) -> Duration:
        return cls(count=total.count, ns=round(total.seconds * 1e9))


class InferenceStatistics(BaseModel):
    """Requests by how they ended; answered images by stage: waiting, decoding, the network (the whole run that an image
    shared), postprocessing.
    """

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class BatchStatistics(BaseModel):
    """Runs of the network with so many images, and what their images took before and after."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class VersionStatistics(BaseModel):
    name: str
    version: str
    last_inference: int = Field(description="when the last request was over, in milliseconds since 1970; 0: none was")
    inference_count: int = Field(description="images that were answered")
    execution_count: int = Field(description="runs of the network")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]

    @classmethod
    def of(cls, name: str, version: int, deeds: Deeds) -> VersionStatistics:
        stages = {stage: Duration.of(times) for stage, times in deeds.stages.items()}
        return cls(
            name=name,
            version=str(version),
            last_inference=round(deeds.last * 1e3),
            inference_count=stages["inference"].count,
            execution_count=sum(total.count for total in deeds.runs.values()),
            inference_stats=InferenceStatistics(
                success=Duration.of(deeds.answered),
                fail=Duration.of(deeds.failed),
                queue=stages["queue"],
                compute_input=stages["decode"],
                compute_infer=stages["inference"],
                compute_output=stages["postprocess"],
            ),
            batch_stats=[
                BatchStatistics(
                    batch_size=size,
                    compute_input=Duration.of(deeds.sizes[size][0]),
                    compute_infer=Duration.of(run),
                    compute_output=Duration.of(deeds.sizes[size][1]),
                )
                for size, run in sorted(deeds.runs.items())
            ],
        )


class Statistics(BaseModel):
    """`GET /v2/models/NAME/stats`."""

    model_stats: list[VersionStatistics]


@router.get("/stats", summary="What every served version did", responses=problem_responses(401, 503))
async def all_statistics(request: Request) -> Statistics:
    """Since it was loaded; an image counts when it is answered."""
    return await _statistics(request, None, lifecycle_of(request).catalog.served)


@router.get("/{name}/stats", summary="What a model's served versions did", responses=MODEL_RESPONSES)
async def model_statistics(request: Request, name: str) -> Statistics:
    catalog = lifecycle_of(request).catalog
    model = catalog.find(name)
    versions = [model] if catalog.is_fixed(name) else [one for one in catalog.served if one.name == model.name]
    return await _statistics(request, name, versions)


@router.get("/{name}/versions/{version}/stats", summary="What a version did", responses=MODEL_RESPONSES)
async def version_statistics(request: Request, name: str, version: Version) -> Statistics:
    return await _statistics(request, name, [lifecycle_of(request).catalog.find(name, version)])


@router.get("/{name}/config", summary="A model's configuration as Triton writes it", responses=MODEL_RESPONSES)
async def model_config(request: Request, name: str) -> ModelConfig:
    """Of the version that answers when none is named."""
    return _config(request, name, None)


@router.get("/{name}/versions/{version}/config", summary="A version's configuration", responses=MODEL_RESPONSES)
async def version_config(request: Request, name: str, version: Version) -> ModelConfig:
    return _config(request, name, version)


async def _statistics(
    request: Request, name: str | None, models: list[ServedModel] | tuple[ServedModel, ...]
) -> Statistics:
    """Under the name that was asked for, which may be an alias: clients look for it."""
    deeds, none = await lifecycle_of(request).deeds(), Deeds(last=0.0)
    return Statistics(
        model_stats=[
            VersionStatistics.of(name or one.name, one.version, deeds.get((one.name, one.version), none))
            for one in models
        ]
    )


def _config(request: Request, name: str, version: int | None) -> ModelConfig:
    lifecycle = lifecycle_of(request)
    model = lifecycle.catalog.find(name, version)
    engine = model.engines[0].name
    keep = lifecycle.settings.limits(model.name).keep_versions
    return ModelConfig(
        name=name,
        platform=PLATFORMS[engine],
        backend=BACKENDS[engine],
        version_policy=VersionPolicy(latest=LatestVersions(num_versions=keep)),
        max_batch_size=0,
        input=(ConfigTensor.of(IMAGE),),
        output=tuple(map(ConfigTensor.of, output_tensors(model.manifest.architecture))),
        instance_group=[_group(f"{name}_{index}", device) for index, device in enumerate(model.devices)],
        default_model_filename=file_of(model.manifest, model.precision)
        or next(file for kind, file in MODEL_FILES.items() if kind == engine),
        parameters={"precision": Parameter(string_value=model.precision)},
    )


def _group(name: str, device: str) -> InstanceGroup:
    on_cpu = device == "cpu"
    return InstanceGroup(
        name=name, kind="KIND_CPU" if on_cpu else "KIND_GPU", gpus=[] if on_cpu else [gpu_index(device)]
    )
