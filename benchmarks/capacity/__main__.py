"""How many replicas a load needs, what they cost and how long its requests take, for three kinds of balancers.

    python -m benchmarks.capacity --rate 20                               this machine's stage times, measured first
    python -m benchmarks.capacity --rate 100000 --stages gpu.json --price 2.5 --max-batch-size 8 --growth 0.2
    python -m benchmarks.capacity --validate                              a real server beside the simulation
    python -m benchmarks.capacity --validate --servers 2                  two of them behind a balancer

Each replica is the service's own gate, pools and batcher, in virtual time. What it does not know: networks, and
machines that differ. What stages share, such as cores, it knows from their times, which are measured with two images on
their way. `--stages` is a list of objects with bucket, decode, inference, postprocess and other, in seconds; `--save`
writes one. `in flight` is the mean for each device, and so what an autoscaler may aim at. `--validate` gives each
server a core of its own; the client is the balancer, by the rule that is simulated.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from benchmarks.capacity.fleet import BALANCERS, Machine, Stages, needed
from benchmarks.capacity.real import WITHIN, measure, started, validate
from benchmarks.overload import SAMPLES, Server
from model.console.arguments import number, whole
from model.runtime.bundles.manifest import PrecisionChoice


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 1 where the simulation does not agree, or nobody can tell."""
    options = _read(arguments)
    machine = Machine(
        options.devices,
        options.threads,
        options.max_batch_size,
        options.growth,
        options.max_queue_size,
        options.timeout_ms / 1e3,
    )
    images = sorted(options.images.glob("*.png"))
    if not images and (options.validate or options.stages is None):
        return _wrong(f"--images: {options.images} has no PNGs")
    if options.validate:
        return _validate(images, machine, options)
    if options.stages is None:
        server = Server(options.timeout_ms, "--precision", options.precision)
        try:
            mix = measure([server], images, options.rounds)
        finally:
            server.stop()
    else:
        try:
            mix = _read_mix(options.stages)
        except ValueError as error:
            return _wrong(f"--stages: {error}")
    if options.save is not None:
        options.save.write_text(json.dumps([asdict(one) for one in mix], indent=1) + "\n")
    print(f"{options.rate:g} requests/s, p99 at most {options.p99:g} s, at most {options.lost:.1%} refused or late")
    print("balancer          replicas    p50, s    p99, s   refused      late  in flight   cost/h  cost/million")
    for name, balancer in BALANCERS.items():
        try:
            found = needed(
                options.rate, mix, machine, balancer, p99=options.p99, lost=options.lost, requests=options.requests
            )
        except ValueError as error:
            return _wrong(f"{error}; allow more, or take faster machines")
        cost = found.replicas * options.price
        answered = options.rate * (1 - found.refused - found.late)
        in_flight = answered * found.mean / found.replicas / machine.devices  # Little's law
        print(
            f"{name:16}  {found.replicas:8d}  {found.p50:8.3f}  {found.p99:8.3f}  {found.refused:8.2%}"
            f"  {found.late:8.2%}  {in_flight:9.2f}  {cost:7.2f}  {cost / options.rate / 3600 * 1e6:12.2f}"
        )
    return 0


def _wrong(why: str) -> int:
    print(f"capacity: {why}", file=sys.stderr)
    return 2


def _read_mix(file: Path) -> list[Stages]:
    """Raises ValueError, whose message is one line."""
    try:
        mix = TypeAdapter(list[Stages]).validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file} holds no stage times: {where + ': ' if where else ''}{first['msg']}") from None
    if not mix or not all(map(_is_meant, mix)):
        raise ValueError(f"{file} holds no stage times: no image, or one that takes no time, or less than none")
    return mix


def _is_meant(one: Stages) -> bool:
    others = (one.decode, one.postprocess, one.other)
    return one.inference > 0 and min(others) >= 0 and math.isfinite(one.inference + sum(others))


def _validate(images: Sequence[Path], machine: Machine, options: argparse.Namespace) -> int:
    balancer = BALANCERS[options.balancer]
    print(f"{options.servers} server(s), {options.balancer}; real and simulated, other processes' share of the cores")
    print("load        p50, s            p99, s           refused             late      inference, s   other")
    found = []
    with started(machine, options.servers, options.precision) as servers:
        for one in validate(servers, images, machine, balancer, options.rounds, options.seconds):
            found.append(one)
            seconds = [(one.real.p50, one.simulated.p50), (one.real.p99, one.simulated.p99), one.inference[::-1]]
            shares = [(one.real.refused, one.simulated.refused), (one.real.late, one.simulated.late)]
            p50, p99, inference = (f"{real:8.3f} {simulated:7.3f}" for real, simulated in seconds)
            refused, late = (f"{real:8.1%} {simulated:7.1%}" for real, simulated in shares)
            other = "unknown" if one.other_load is None else f"{one.other_load:.0%}"
            words = ("agrees" if one.holds else "differs") + ("" if one.is_valid else ", not valid")
            print(f"{one.load:4g}{p50}  {p99}  {refused}  {late}  {inference}  {other:>6}   {words}", flush=True)
    agrees, is_valid = all(one.holds for one in found), all(one.is_valid for one in found)
    word = "not valid: other processes were busy" if not is_valid else "validated" if agrees else "not validated"
    print(f"{word} (within {WITHIN:.0%})")
    return 0 if agrees and is_valid else 1


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rate", type=number(0, above=True), default=10.0, help="requests a second (default: %(default)g)")
    add("--p99", type=number(0, above=True), default=2.0, help="seconds, of 99 in 100 at most (default: %(default)g)")
    add("--lost", type=number(0, 1), default=0.001, help="share that may be refused or late (default: %(default)g)")
    add("--price", type=number(0), default=1.0, help="of a replica for an hour (default: %(default)g)")
    add("--stages", type=Path, metavar="FILE", help="stage times; without it they are measured here")
    add("--save", type=Path, metavar="FILE", help="write the stage times here")
    add("--images", type=Path, default=SAMPLES, metavar="DIR", help="PNGs, the mix of sizes (default: the samples)")
    add(
        "--precision",
        choices=get_args(PrecisionChoice),
        default="f32",
        help="of the servers that are measured (default: %(default)s)",
    )
    add("--rounds", type=whole(1), default=5, help="how often each is measured (default: %(default)d)")
    add("--devices", type=whole(1), default=1, help="of a replica (default: %(default)d)")
    add("--threads", type=whole(1), default=2, help="that decode, and as many that encode (default: %(default)d)")
    add("--max-batch-size", type=whole(1), default=1, help="(default: %(default)d)")
    add("--growth", type=number(0), default=1.0, help="of a batch's time with each image more (default: %(default)g)")
    add("--max-queue-size", type=whole(1), default=64, help="(default: %(default)d)")
    add("--timeout-ms", type=number(0, above=True), default=30_000.0, help="the deadline (default: %(default)g)")
    add(
        "--requests", type=whole(100), help="in each simulation (default: 10000, or 2000 for each of up to 32 replicas)"
    )
    add("--validate", action="store_true", help="hold the simulation against real servers at three loads")
    add("--servers", type=whole(1), default=1, help="with --validate (default: %(default)d)")
    add("--balancer", choices=BALANCERS, default="least-in-flight", help="with --validate (default: %(default)s)")
    add("--seconds", type=number(1), default=120.0, help="of each load with --validate (default: %(default)g)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
