"""How long Ray Serve takes from one replica of the service to two and back, and what becomes of the requests meanwhile.

    python -m benchmarks.autoscale
    python -m benchmarks.autoscale --up 30 --down 600 --json autoscale.json     # Ray's own delays

The cluster is a local one of two CPUs, the model the embedded one, and clients ask without a pause, each for one image
after the other. Ray listens on every address there is: run it where nobody else can reach them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import ray
from ray import serve

from model.console.arguments import whole

IMAGE: Final = Path(__file__).resolve().parents[1] / "model" / "samples" / "nuclei" / "small.png"
NAME: Final = "maskserve"
PORT: Final = 8000
LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Scaled:
    """Seconds from the load's beginning to two replicas that run, and from its end to one; and the answers by status,
    or by the error's name where there was none.
    """

    up: float
    down: float
    answered: dict[str, int]


def deploy(address: str, up: float, down: float, target: float) -> None:
    """As a user does, by a file. Returns when the first replica answers."""
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": target}
    deployment = {
        "name": NAME,
        "autoscaling_config": scaling | {"upscale_delay_s": up, "downscale_delay_s": down},
        "ray_actor_options": {"num_cpus": 1},
        "health_check_period_s": 1,
    }
    application = {"name": NAME, "import_path": "service.ray_app:build", "deployments": [deployment]}
    config = {"http_options": {"host": "127.0.0.1", "port": PORT}, "applications": [application]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        program = str(Path(sys.executable).with_name("serve"))
        command = [program, "run", file.name, "--address", address, "--non-blocking"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    wait(lambda: httpx.get(f"http://127.0.0.1:{PORT}/readyz", timeout=60).status_code == 200)


def replicas() -> dict[str, int]:
    """How many are in which state."""
    states = serve.status().applications[NAME].deployments[NAME].replica_states
    return {state.value: count for state, count in states.items()}


def wait(condition: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not condition():
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


@contextmanager
def clients(count: int) -> Iterator[Counter[str]]:
    """Inside the block so many ask. Gives what they were answered so far."""
    image, answered, end = IMAGE.read_bytes(), Counter[str](), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120) as client:
            while not end.is_set():
                try:
                    answer = client.post("/predict", content=image, headers={"Content-Type": "image/png"})
                    answered[str(answer.status_code)] += 1
                except httpx.HTTPError as error:
                    answered[type(error).__name__] += 1

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        end.set()
        for thread in threads:
            thread.join()


def main() -> int:
    """Prints what was found; the exit status is 1 where a request was not answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--up", type=float, default=3, help="upscale_delay_s (default: %(default)g)")
    parser.add_argument("--down", type=float, default=10, help="downscale_delay_s (default: %(default)g)")
    parser.add_argument("--target", type=float, default=2, help="target_ongoing_requests (default: %(default)g)")
    parser.add_argument("--clients", type=whole(1), default=6, help="(default: %(default)d)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": 100 * 1024**2,
        "_node_ip_address": "127.0.0.1",
    }
    ray.init("local", num_cpus=2, logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        deploy(ray.get_runtime_context().gcs_address, options.up, options.down, options.target)
        with clients(options.clients) as answered:
            up = wait(lambda: replicas().get("RUNNING") == 2)
            time.sleep(options.up)  # under which both answer
        down = wait(lambda: sum(replicas().values()) == 1)
        found = Scaled(up, down, dict(answered))
    finally:
        serve.shutdown()
        ray.shutdown()
    print(f"two replicas {found.up:.1f} s after the load began (upscale_delay_s {options.up:g})")
    print(f"one replica {found.down:.1f} s after it ended (downscale_delay_s {options.down:g})")
    print(f"answers: {found.answered}")
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return int(set(found.answered) != {"200"})


if __name__ == "__main__":
    sys.exit(main())
