"""Every setting of the server: an environment variable MASKSERVE_NAME and a flag --name; the flag wins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

PREFIX = "MASKSERVE_"
EMBEDDED_MODELS = Path(__file__).resolve().parents[1] / "model" / "embedded"

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]


class InvalidSettingsError(Exception):
    """The server cannot start with these settings; the message is one line for the person who starts it."""


class Settings(BaseSettings):
    """Serve Mask R-CNN models over HTTP. Every flag is also an environment variable; the flag wins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_show_env_vars=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        protected_namespaces=(),
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 is every interface")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")

    models: Path = Field(EMBEDDED_MODELS, description="model repository: a folder NAME/VERSION/ of bundles")
    model: str | None = Field(
        None, min_length=1, description="model that answers when a request names none; needed if there are several"
    )
    engine: Literal["onnx", "torchscript"] = Field("onnx", description="what runs the network")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where; auto takes a GPU when there is one")
    engine_threads: PositiveInt | Auto = Field(
        "auto", description="CPU threads of one inference; auto is every physical core"
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
        64, ge=1, description="most requests accepted and not yet answered; more are refused with 429"
    )
    timeout_ms: float = Field(
        30_000, gt=0, description="time from the complete upload to the answer; then the request is dropped with 504"
    )
    drain_timeout_ms: float = Field(
        30_000, ge=0, description="how long accepted requests may take after SIGTERM before they are cut off"
    )

    max_body_bytes: int = Field(32 * 1024**2, ge=1, description="largest upload in bytes")
    max_pixels: int = Field(64_000_000, ge=1, description="largest image in pixels, refused from its header")
    decode_threads: PositiveInt | Auto = Field(
        "auto", description="threads that decode images, and as many that encode masks; auto is one a core, at most 4"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe message logged")
    access_log: bool = Field(False, description="log a line for every request")

    @property
    def pool_threads(self) -> int:
        """Threads of the decode pool, and of the postprocess pool."""
        if self.decode_threads == "auto":
            return min(4, usable_cpus())
        return self.decode_threads


def usable_cpus() -> int:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the environment and the command line.

    Raises InvalidSettingsError, or SystemExit(0) after printing the manual for `--help`.
    """
    _refuse_unknown_variables()
    try:
        settings = Settings(_cli_parse_args=list(arguments))
    except ValidationError as error:
        raise InvalidSettingsError(_one_line(error)) from None
    except SettingsError as error:
        raise InvalidSettingsError(f"{str(error).removeprefix('error parsing CLI: ')}; see --help") from None
    if not settings.models.is_dir():
        raise InvalidSettingsError(
            f"--models: {settings.models} is not a folder; give a folder NAME/VERSION/ of bundles"
        )
    return settings


def _one_line(error: ValidationError) -> str:
    wrong: dict[str, list[str]] = {}
    for entry in error.errors():  # a setting that may be a number or a word has an entry for each
        name = str(entry["loc"][0]).replace("_", "-")
        wrong.setdefault(f"--{name} {entry['input']}", []).append(entry["msg"].removeprefix("Input "))
    return "; ".join(f"{setting}: {' or '.join(messages)}" for setting, messages in wrong.items())


def _refuse_unknown_variables() -> None:
    known = [name.upper() for name in Settings.model_fields]
    for variable in os.environ:
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "see --help"
            raise InvalidSettingsError(f"unknown setting {variable} in the environment; {hint}")
