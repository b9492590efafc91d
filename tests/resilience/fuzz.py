"""Any bytes at what reads bytes of strangers: only the errors that it is made to raise may come out.

    python -m tests.resilience.fuzz multipart --seconds 60
    python -m tests.resilience.fuzz multipart --again FILE       # one input again, as it was kept

Where atheris is installed (the extra `fuzz`), it looks for inputs that reach new lines; else valid ones are changed at
random. An input that something else comes out of is kept in --keep, and ends the run.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

if __name__ == "__main__" and importlib.util.find_spec("atheris") is not None:
    import atheris

    with atheris.instrument_imports(include=["model.runtime", "service", "python_multipart", "tifffile", "PIL"]):
        from tests.resilience.targets import TARGETS, Target
else:
    from tests.resilience.targets import TARGETS, Target

ODD = (b"\0", b"\xff", b"\r\n", b"--", b'"', b"{", b"[", b":", b";", b"=", b"\\", b"-1", b"1e999", b"\xed\xa0\x80")


def changed(seeds: list[bytes], draw: Random) -> bytes:
    """One of the seeds, with some of it flipped, left out, repeated, of another seed, or odd."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice((1, 1, 2, 4, 16, 200)))
        match draw.randrange(6):
            case 0:
                data[start:stop] = bytes(draw.randrange(256) for _ in range(stop - start))
            case 1:
                del data[start:stop]
            case 2:
                data[start:start] = data[start:stop] * draw.choice((1, 3))
            case 3:
                other = draw.choice(seeds)
                data[start:stop] = other[min(start, len(other)) : stop]
            case 4:
                data[start:start] = draw.choice(ODD)
            case 5:
                data[start : start + 4] = draw.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(4, "little")
    return bytes(data)


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """The seeds, and then without end what becomes of them; the same for the same number."""
    seeds, draw = target.seeds(), Random(seed)
    yield from seeds
    while True:
        yield changed(seeds, draw)


def by_mutation(name: str, seconds: float, seed: int, keep: Path) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff says there what it thinks of each input
    began, count = time.monotonic(), 0
    for data in inputs(TARGETS[name], seed):
        if time.monotonic() - began > seconds:
            break
        try:
            TARGETS[name].run(data)
        except Exception as finding:  # whatever it is, it is a finding
            kept = keep / f"{name}-{seed}-{count}"
            kept.write_bytes(data)
            print(f"{name}: {finding!r}; again: python -m tests.resilience.fuzz {name} --again {kept}")
            return 1
        count += 1
    print(f"{name}: {count} inputs in {seconds:g} s, changed at random: nothing found")
    return 0


def by_coverage(name: str, seconds: float, seed: int, keep: Path) -> None:
    """Ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / str(number)).write_bytes(data)
        options = [f"-max_total_time={seconds:.0f}", f"-seed={seed + 1}", f"-artifact_prefix={keep}/{name}-"]
        options += ["-max_len=4096", "-timeout=10", "-rss_limit_mb=4096", "-print_final_stats=1", "-close_fd_mask=2"]
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name].run)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="folder for what is found")
    parser.add_argument("--again", type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.disable()  # what libraries say of each input
    if options.again is not None:
        TARGETS[options.target].run(options.again.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        return by_mutation(options.target, options.seconds, options.seed, options.keep)
    by_coverage(options.target, options.seconds, options.seed, options.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
