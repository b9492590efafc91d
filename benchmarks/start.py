"""From process start to the first answer, and whether torch was loaded on the way.

    python -m benchmarks.start                      the embedded model, five starts
    python -m benchmarks.start --rounds 10 --json start.json

Every round starts `python -m service` as a user does, waits for ready, posts one sample image and stops it again.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "model" / "samples" / "nuclei"
GIVE_UP_SECONDS = 120
POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Start:
    """One start. Seconds count from the moment the process was created; peak memory in bytes, as /proc has it."""

    listening: float
    ready: float
    first_answer: float
    detections: int
    torch_loaded: bool
    peak_memory: int


def measure(image: Path, arguments: Sequence[str]) -> Start:
    """Starts the server once and posts `image`. Raises RuntimeError, with its output, when it never gets ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", str(port), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        listening = _wait_for(f"{url}/healthz", process, begin)
        ready = _wait_for(f"{url}/readyz", process, begin)
        request = urllib.request.Request(f"{url}/predict", image.read_bytes(), {"Content-Type": "image/png"})
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        first_answer = time.perf_counter() - begin
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        status = Path(f"/proc/{process.pid}/status").read_text()
    finally:
        process.terminate()
        process.communicate()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return Start(listening, ready, first_answer, len(answer["scores"]), "libtorch" in maps, peak)


def _wait_for(url: str, process: subprocess.Popen[str], begin: float) -> float:
    while time.perf_counter() - begin < GIVE_UP_SECONDS and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return time.perf_counter() - begin
        except (urllib.error.URLError, ConnectionError):
            time.sleep(POLL_SECONDS)
    process.kill()
    raise RuntimeError(f"{url} never answered 200:\n{process.communicate()[1]}")


def main() -> int:
    """Prints one line a start and the medians; the exit status is 1 when torch was loaded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description="Process start to first answer.")
    parser.add_argument("--image", type=Path, default=min(SAMPLES.glob("*.png"), default=None), help="what is posted")
    parser.add_argument("--rounds", type=int, default=5, help="how often")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("server", nargs="*", help="flags of the server, after --")
    options = parser.parse_args()
    starts = []
    for number in range(options.rounds):
        start = measure(options.image, options.server)
        starts.append(start)
        print(
            f"start {number + 1}: listening {start.listening:.2f} s, ready {start.ready:.2f} s, "
            f"first answer {start.first_answer:.2f} s ({start.detections} detections), "
            f"peak {start.peak_memory / 2**20:.0f} MiB, torch {'LOADED' if start.torch_loaded else 'not loaded'}"
        )
    answers = [start.first_answer for start in starts]
    print(f"first answer: median {statistics.median(answers):.2f} s, {min(answers):.2f} to {max(answers):.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(start) for start in starts], indent=2) + "\n")
    return int(any(start.torch_loaded for start in starts))


if __name__ == "__main__":
    sys.exit(main())
