"""The service as a deployment of Ray Serve: the same application in each replica, behind Serve's proxies.

serve run service.ray_app:build models=/models max_queue_size=32
RAY_SERVE_ENABLE_HA_PROXY=1 serve run service.ray_app:build      # HAProxy instead of the proxy in Python

`import_path: service.ray_app:build` and `args` say the same in `serveConfigV2` of KubeRay's RayService.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import ray
from ray import serve
from ray.util.metrics import Gauge

from service.app import create_app
from service.observability.logs import configure_logging
from service.observability.memory import keep_freed_memory
from service.observability.tracing import start_tracing
from service.prediction.lifecycle import Lifecycle
from service.settings.configuration import parse_settings, read_all_keys, read_settings
from service.settings.settings import InvalidSettingsError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry

NAME: Final = "maskserve"
MAX_ONGOING: Final = 10_000
"""More than the gate lets in: it refuses what cannot be answered in time, and Serve's router would keep it waiting."""
LONGER_THAN_DRAINING: Final = 5.0
"""Seconds that Serve waits for a replica that ends, past what its requests have."""
OF_THE_PROXY: Final = ("host", "port", "keep_alive_ms", "header_timeout_ms", "shutdown_delay_ms", "config")
"""Settings about connections, which here are Serve's; and the file, which MASKSERVE_CONFIG may name where it lies."""


class Replica:
    """What Serve asks of one, besides the application, which `serve.ingress` adds as `app`."""

    app: FastAPI

    def __init__(self) -> None:
        self._gauges = Gauges()

    async def check_health(self) -> None:
        """Returns once a model answers. Serve sends nothing before, and starts another where this raises."""
        lifecycle = self.app.state.lifecycle
        assert isinstance(lifecycle, Lifecycle)
        if lifecycle.lost:
            raise RuntimeError(lifecycle.lost)
        (await lifecycle.ready()).find()
        self._gauges.tell(lifecycle.metrics.registry)


class Gauges:
    """Ray's copies of the application's gauges, by the same names, which Ray shows as ray_NAME."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._told: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    def tell(self, registry: CollectorRegistry) -> None:
        told = set()
        for family in registry.collect():
            if family.type != "gauge":
                continue
            for sample in family.samples:
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                self._gauges[sample.name].set(sample.value, sample.labels)
                told.add((sample.name, tuple(sorted(sample.labels.items()))))
        for name, labels in self._told - told:  # such as those of a version that is gone: Ray would go on showing them
            self._gauges[name].set(0, dict(labels))
        self._told = told


def build(arguments: dict[str, Any]) -> serve.Application:
    """The deployment with these settings, by the names that they have in the settings' file: `serve run`'s words, or
    `args`. What else replicas need they read from their own environment.

    Raises InvalidSettingsError. Where the models are not is told by the replicas: here need not be where they are.
    """
    if "processes" in arguments:
        raise InvalidSettingsError("processes: these are Ray Serve's replicas, see num_replicas; leave it out")
    if useless := [name for name in OF_THE_PROXY if name in arguments]:
        raise InvalidSettingsError(
            f"{', '.join(useless)}: connections are Ray Serve's, see its http_options; leave it out"
        )
    settings = parse_settings([], arguments)

    def make_app() -> FastAPI:
        return app_of_replica(arguments)

    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=settings.drain_timeout_ms / 1e3 + LONGER_THAN_DRAINING,
    )
    return deployment(serve.ingress(make_app)(Replica)).bind()


def app_of_replica(arguments: Mapping[str, Any]) -> FastAPI:
    """The application of this replica: with as many threads as it has CPUs, and open to others than this machine."""
    settings = read_settings([], arguments)
    # Serve's proxies may listen for everybody: administration needs a key.
    changed: dict[str, Any] = {"host": "0.0.0.0"}  # nosec B104  # to which nothing is bound
    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
    if settings.engine_threads == "auto" and cpus:
        changed["engine_threads"] = cpus
    settings = settings.model_copy(update=changed)
    configure_logging(settings.log_level, settings.log_format)
    keep_freed_memory()
    return create_app(settings, read_all_keys(settings), tracing=start_tracing())
