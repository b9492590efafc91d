"""Every setting of the server. `configuration` reads them from flags, the environment and a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from model.runtime.bundles.manifest import PrecisionChoice
from model.runtime.engines.choosing import EngineChoice
from service.settings.environment import PREFIX, OwnVariables
from service.settings.values import (
    DEFAULT_MODEL,
    Aliases,
    Auto,
    Device,
    Host,
    NotNegative,
    Origins,
    PathTo,
    PositiveInt,
    Prefix,
    Proxies,
    Secrets,
    TrustedKeys,
    Versions,
    no_bool_for_a_number,
)

EMBEDDED_MODELS: Final = Path(__file__).resolve().parents[2] / "model" / "embedded"
MOST_BATCH_IMAGES: Final = 16
MOST_POOL_THREADS: Final = 4
LEAST_STALL_SECONDS: Final = 20.0
"""An honest run that takes so long on a CPU is of a network that this machine is too slow for."""


class InvalidSettingsError(Exception):
    """The server cannot start with these settings; the message is one line for the person who starts it."""


class ModelSettings(BaseModel):
    """What holds for one model instead of the setting of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    _no_bools = field_validator("*", mode="before")(no_bool_for_a_number)

    max_batch_size: PositiveInt | Auto | None = None
    max_queue_delay_ms: float | None = Field(None, ge=0, le=60_000)
    max_queue_size: int | None = Field(None, ge=1)
    keep_versions: int | None = Field(None, ge=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that hold for one model."""

    max_batch_size: int | Auto
    max_queue_delay_ms: float
    max_queue_size: int
    keep_versions: int


class Settings(BaseSettings):
    """See `GROUPS` for their order in the manual."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_prog_name="maskserve serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_parse_none_str="\0",  # no argument can be that: null is an origin
        protected_namespaces=(),
    )

    _no_bools = field_validator("*", mode="before")(no_bool_for_a_number)

    config: PathTo | None = Field(None, description="TOML file of settings; the environment and flags win over it")

    host: Host = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 is every interface")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    cors_origins: Origins = Field(
        (),
        description="web origins whose pages may call this server from a browser, such as https://lab.example; * is "
        "any, null that of files and sandboxed frames. None: no CORS headers are sent",
    )

    root_path: Prefix = Field(
        "",
        description="path under which a proxy in front shows this server, such as /segmentation, whether it cuts that "
        "off or not. A trusted proxy may send it instead, as X-Forwarded-Prefix",
    )
    trusted_proxies: Proxies = Field(
        ("127.0.0.1", "::1"),
        description="addresses and networks whose X-Forwarded-Prefix, -Proto and -For are believed; * is every one",
    )
    keep_alive_ms: float = Field(
        75_000,
        gt=0,
        description="how long a connection may idle between requests. Let it be longer than that of the proxy in front "
        "(often 60 s, some 600 s), which may else use one that just closed",
    )

    models: PathTo = Field(
        EMBEDDED_MODELS,
        description="model repository: a folder NAME/VERSION/ of bundles, or of one the folder of one model or bundle",
    )
    model: str | None = Field(
        None, min_length=1, description="model that answers when a request names none; needed if there are several"
    )
    keep_versions: int = Field(
        2, ge=1, description="newest versions of each model that are loaded and can be asked for; the newest answers"
    )
    versions: Versions = Field(
        {},
        description="version of a model that answers in place of its newest, as in nuclei:1,shapes:3; until "
        "administration promotes another or unpins the model",
    )
    model_aliases: Aliases = Field(
        {},
        description="other names for models, or for single versions, which then stay loaded, as in "
        "best=nuclei:1,cells=nuclei; * is the model that answers when a request names none (segmenter=*)",
    )
    trusted_keys: TrustedKeys = Field(
        (),
        description="public keys, separated by commas, of which one must have signed a bundle (maskserve publish "
        "--sign), else it is refused; none: unsigned bundles are served",
    )
    poll_interval_ms: float = Field(
        5_000,
        ge=0,
        description="how often the repository is looked at for new versions; 0: only when POST /models/NAME/reload "
        "asks for it",
    )
    warm_up: Literal["auto", "every-bucket", "one"] = Field(
        "auto",
        description="image sizes that a model computes before it is ready. Auto is one on a CPU, the commonest for "
        "the engine cuda, the largest and the smallest for onnx on a GPU, and every bucket for torchscript there",
    )
    engine: EngineChoice = Field(
        "auto",
        description="what runs the network. Auto is cuda on a GPU, where torch is installed; on a CPU OpenVINO, where "
        "it is installed, for what it computes in INT8 or bfloat16 on this processor; else ONNX Runtime",
    )
    device: Device = Field(
        "auto",
        description="where: cpu, cuda, cuda:N, or several separated by commas, which share one queue (cuda:0,cuda:1). "
        "Auto is every GPU there is, else the CPU",
    )
    precision: PrecisionChoice = Field(
        "f32",
        description="what networks compute in. f32 answers the same on every machine; auto is the fastest that this "
        "processor has instructions for, or f16 on a GPU with the engine cuda, and that lost at most 0.2 points of AP "
        "when the model was published. Where nothing is said and engine auto takes cuda, auto",
    )
    engine_threads: PositiveInt | Auto = Field(
        "auto", description="CPU threads of one inference; auto is every physical core, shared by the CPU devices"
    )
    per_model: dict[str, ModelSettings] = Field(
        {},
        description="max_batch_size, max_queue_delay_ms, max_queue_size or keep_versions of single models, as JSON "
        '({"nuclei": {"max_batch_size": 4}}) or, in the file, as tables [per_model.nuclei]',
    )

    max_batch_size: PositiveInt | Auto = Field(
        "auto",
        description="most images in a batch; auto is 1 on a CPU (a batch keeps its first image waiting), 8 on a GPU",
    )
    max_queue_delay_ms: float = Field(
        0,
        ge=0,
        le=60_000,
        description="how long the oldest image may wait for its batch to fill while the device idles",
    )
    max_queue_size: int = Field(
        64,
        ge=1,
        description="most images of one model and priority accepted and not yet answered; more are refused with 429",
    )
    timeout_ms: float = Field(
        30_000,
        gt=0,
        description="time from the complete upload to the answer, then the request is dropped with 504; a request may "
        "ask for less with its own timeout_ms",
    )
    engine_stall_ms: NotNegative | Auto = Field(
        "auto",
        description="how long a run of the network may take before it counts as hung: its images get 503 and the "
        "engine is replaced; 0: as long as it likes. Auto is two thirds of timeout_ms, and at least 20 s",
    )
    drain_timeout_ms: float = Field(
        30_000, ge=0, description="how long accepted requests may take after SIGTERM before they are cut off"
    )
    shutdown_delay_ms: float = Field(
        0,
        ge=0,
        description="how long after SIGTERM requests are still taken while /readyz already fails, so that a balancer "
        "can notice",
    )
    decode_threads: PositiveInt | Auto = Field(
        "auto", description="threads that decode images, and as many that encode masks; auto is one a core, at most 4"
    )
    processes: PositiveInt | Auto = Field(
        1,
        description="processes behind the one port, each the whole server with its own queue, on its share of the "
        "devices and cores. Auto is one for each GPU where there are several, else 1",
    )

    max_body_bytes: int = Field(
        32 * 1024**2, ge=1, description="largest upload in bytes, also after a gzip body is unpacked"
    )
    max_pixels: int = Field(
        64_000_000, ge=1, description="most pixels that are decoded at once, refused from the image's header"
    )
    max_picture_pixels: int = Field(
        1_000_000_000,
        ge=1,
        le=2**32 - 1,
        description="largest picture in pixels that is read part by part, refused from its header: a tiled TIFF of "
        "more than max_pixels",
    )
    max_batch_images: PositiveInt | Auto = Field(
        "auto",
        description="most images in one request to /predict/batch or /v2; auto is 16, or max_queue_size if smaller",
    )
    max_planes: int = Field(
        1000, ge=1, description="most planes of one file that are answered at once, where planes=all asks for them"
    )
    max_uploads: int = Field(64, ge=1, description="most bodies being received at once; more are refused with 429")
    upload_timeout_ms: float = Field(60_000, gt=0, description="how long a client may take to send its body")
    header_timeout_ms: float = Field(10_000, gt=0, description="how long a client may take to send a request's head")

    api_keys: Secrets = Field(
        (), description="keys of which a request must bring one, separated by commas; none: everybody may ask"
    )
    api_keys_file: PathTo | None = Field(None, description="file of such keys, one a line")
    admin_keys: Secrets = Field((), description="keys for loading, unloading and reloading models")
    admin_keys_file: PathTo | None = Field(None, description="file of such keys, one a line")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe message logged")
    log_format: Literal["json", "text"] = Field("json", description="form of the log on stdout, a line a message")
    access_log: bool = Field(True, description="log a line for every request")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Each wins over the next; the command line over all of them."""
        return init_settings, OwnVariables(settings_cls)

    @property
    def pool_threads(self) -> int:
        """Threads of the decode pool, and of the postprocess pool."""
        if self.decode_threads == "auto":
            return min(MOST_POOL_THREADS, usable_cpus())
        return self.decode_threads

    @property
    def names_precision(self) -> bool:
        """Whether anybody said what networks compute in; if not, the engine cuda may choose half precision."""
        return "precision" in self.model_fields_set

    @property
    def stall_seconds(self) -> float | None:
        """After which a run of the network hangs; None: never."""
        if self.engine_stall_ms == "auto":
            return max(LEAST_STALL_SECONDS, self.timeout_ms / 1500)
        return self.engine_stall_ms / 1e3 or None

    def limits(self, model: str) -> Limits:
        """What holds for a model."""
        own = self.per_model.get(model, ModelSettings())
        return Limits(
            self.max_batch_size if own.max_batch_size is None else own.max_batch_size,
            self.max_queue_delay_ms if own.max_queue_delay_ms is None else own.max_queue_delay_ms,
            self.max_queue_size if own.max_queue_size is None else own.max_queue_size,
            self.keep_versions if own.keep_versions is None else own.keep_versions,
        )

    def aliases(self, default: str) -> dict[str, tuple[str, int | None]]:
        """Name and version that each alias stands for; no version: the one that answers.

        `default` is the model that answers when a request names none. A model's own name for it is no alias.
        """
        targets = {alias: default if of == DEFAULT_MODEL else of for alias, of in self.model_aliases.items()}
        parts = {alias: target.partition(":") for alias, target in targets.items() if target != alias}
        return {alias: (name, int(version) if version else None) for alias, (name, _, version) in parts.items()}

    @property
    def batch_images(self) -> int:
        """Most images in one request."""
        if self.max_batch_images == "auto":
            return min(MOST_BATCH_IMAGES, *(self.limits(model).max_queue_size for model in ("", *self.per_model)))
        return self.max_batch_images

    @model_validator(mode="after")
    def _not_contradictory(self) -> Self:
        for model in ("", *self.per_model):
            limits, where = self.limits(model), f" of {model}" if model else ""
            if limits.max_queue_delay_ms >= self.timeout_ms:
                raise ValueError(
                    f"max-queue-delay-ms{where} ({limits.max_queue_delay_ms:g}) leaves nothing of timeout-ms "
                    f"({self.timeout_ms:g}); choose a shorter delay"
                )
            if limits.max_queue_size < self.batch_images:
                raise ValueError(
                    f"a request of max-batch-images ({self.batch_images}) can never enter the queue{where} of "
                    f"max-queue-size ({limits.max_queue_size}); choose fewer images or a longer queue"
                )
        return self


GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Address": ("host", "port", "cors_origins", "root_path", "trusted_proxies", "keep_alive_ms"),
    "Models": (
        *(
            "models",
            "model",
            "keep_versions",
            "versions",
            "model_aliases",
            "trusted_keys",
            "poll_interval_ms",
            "warm_up",
            "engine",
            "device",
            "precision",
            "engine_threads",
        ),
        "per_model",
    ),
    "Scheduling": (
        *("max_batch_size", "max_queue_delay_ms", "max_queue_size", "timeout_ms", "engine_stall_ms"),
        *("drain_timeout_ms", "shutdown_delay_ms", "decode_threads", "processes"),
    ),
    "Limits": (
        *("max_body_bytes", "max_pixels", "max_picture_pixels", "max_batch_images", "max_planes", "max_uploads"),
        *("upload_timeout_ms", "header_timeout_ms"),
    ),
    "Keys": ("api_keys", "api_keys_file", "admin_keys", "admin_keys_file"),
    "Logs": ("log_level", "log_format", "access_log"),
    "File": ("config",),
}
"""The settings as the manual orders them."""


def usable_cpus() -> int:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
