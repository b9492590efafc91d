"""A run on a Ray cluster: a worker on each node, shards given out one by one, and written here.

The nodes only compute. Whatever becomes of them, a part is written once, whole, by the process that holds the folder.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from model.console.installing import install
from service.client.command.inputs import UsageError
from service.predict_many.command_line import FROM_ENVIRONMENT, Asked
from service.predict_many.display import Display, say
from service.predict_many.plan import Listing, Plan, differences
from service.predict_many.predicting import EngineFailing
from service.predict_many.shards import part_name
from service.predict_many.sources import Image, Images
from service.predict_many.starting import Known
from service.predict_many.stores import Folder, StoreError
from service.predict_many.worker import Order, Part, Worker
from service.settings.settings import InvalidSettingsError, Settings

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise UsageError(f"--ray needs {error.name}, which is not installed: {install('ray')}") from None

AUTO, LOCAL = "auto", "local"
IN_HAND: Final = 2
"""Shards that a worker has at a time: the next one's images are decoded while the last one's are computed."""
DEATHS: Final = 3
"""So many workers that died over one shard are not the nodes' fault."""
LOOK_SECONDS: Final = 5.0
"""How often nodes that have come are looked for."""
SILENT_SECONDS: Final = 30.0
"""After which it is said what is waited for."""
CONNECT_SECONDS: Final = 10.0
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HTTP2_SETTINGS: Final = b"\x04"
"""What a client begins with, and the type of the frame that a server answers first (RFC 9113, section 3.4): Ray's is
one, its dashboard not."""
LOCAL_STORE_BYTES: Final = 256 * 1024**2
"""Of the object store of a cluster that is started here: finished parts pass through it, and nothing else."""


@contextmanager
def connected(asked: Asked, images: Images) -> Iterator[Cluster]:
    """The cluster of `--ray`, and the end of all that the run has there. Raises UsageError."""
    assert asked.ray is not None
    address = asked.ray
    if address == FROM_ENVIRONMENT:
        address = os.environ.get("RAY_ADDRESS") or LOCAL
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster started here
    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {
            "include_dashboard": False,
            "object_store_memory": LOCAL_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",  # nobody else is to join it
        }
    elif address != AUTO:
        _require_reached(address)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:  # a node that does not start in time is no more to Ray than an Exception
        raise UsageError(f"--ray {address}: {_first_sentence(error)}") from None
    try:
        yield Cluster(asked, images)
    finally:
        ray.shutdown()


def _require_reached(address: str) -> None:
    """Ray itself would try for long, and then end the process."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        raise UsageError(
            f"--ray {address}: an address is HOST:PORT of the head, {AUTO} (the cluster of this machine) or {LOCAL} "
            f"(one that is started here); SOURCE stands before --ray"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--ray {address} cannot be reached: {why.lower()}") from None
    if answer[3:4] != HTTP2_SETTINGS and not os.environ.get("RAY_USE_TLS"):
        raise UsageError(f"--ray {address}: that is no head of a cluster; its port is 6379 unless it was given another")


@dataclass(slots=True, eq=False)
class _Hand:
    """The worker on one node. `loading` is None once its model is loaded; `given` are shards by what will be their
    parts; `held` waits until its engine is known to work."""

    node: str
    where: str
    actor: Any
    loading: ray.ObjectRef[Known] | None
    began: float
    given: dict[ray.ObjectRef[Part], int] = field(default_factory=dict)
    held: list[tuple[int, Part]] = field(default_factory=list)
    is_told: bool = False


class Cluster:
    """The nodes and what they do. All that it raises is one line, with the node's address where it is about one."""

    def __init__(self, asked: Asked, images: Images) -> None:
        self._images = images
        self._order = Order(
            replace(asked, settings=elsewhere(asked.settings)),
            Listing.of(images),
            _to_be_seen(images),
            images.are_remote,
            images.has_text_ids,
        )
        self._quiet = asked.quiet
        self._class: Any = ray.remote(Worker)
        self._hands: dict[str, _Hand] = {}
        self._known: Known | None = None
        self._deaths: Counter[int] = Counter()
        self._waiting: deque[int] = deque()
        self._looked = 0.0
        self._is_told = False

    def load(self) -> Known:
        """What the first node that has loaded the model says. Raises UsageError and InvalidSettingsError."""
        while self._known is None:
            self._look()
            if not self._hands:
                raise UsageError("--ray: the cluster has no node with CPUs: start one, and the command again")
            self._wait()
        return self._known

    def predict(self, plan: Plan, shards: Sequence[int], folder: Folder, display: Display) -> None:
        """Predict these shards and write them. What is finished stays, whatever ends this.

        Raises StoreError, EngineFailing, UsageError and InvalidSettingsError, and OSError where a shard cannot be
        written.
        """
        self._waiting = deque(shards)

        def write(shard: int, part: Part) -> None:
            folder.write(part_name(shard), part.content)
            for number in range(len(plan.images_of(shard))):
                display.advance(failed=number < part.failed)

        while self._waiting or any(hand.given for hand in self._hands.values()):
            self._look()
            for hand in self._hands.values():
                while hand.loading is None and self._waiting and len(hand.given) < IN_HAND:
                    shard = self._waiting.popleft()
                    hand.given[hand.actor.predict.remote(self._of(plan, shard), plan.digest)] = shard
            for hand, shard, part in self._wait():
                hand.held.append((shard, part))
                if part.is_settled:
                    for one in hand.held:
                        write(*one)
                    hand.held.clear()
        for hand in self._hands.values():
            for one in hand.held:
                write(*one)

    def _of(self, plan: Plan, shard: int) -> list[tuple[Image, int | str]]:
        """A shard's images, as a node finds them."""
        images = ((self._images.images[index], self._images.image_id(index)) for index in plan.images_of(shard))
        return [(_elsewhere_image(image), image_id) for image, image_id in images]

    def _look(self) -> None:
        """For nodes without a worker, now and then."""
        now = time.monotonic()
        if self._hands and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for node in ray.nodes():
            cpus, gpus = (node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
            if not node["Alive"] or cpus < 1 or node["NodeID"] in self._hands:
                continue
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": int(cpus), "num_gpus": int(gpus), "scheduling_strategy": strategy}
            actor = self._class.options(**options).remote(self._order, int(cpus))
            where = node["NodeManagerAddress"]
            self._hands[node["NodeID"]] = _Hand(node["NodeID"], where, actor, actor.load.remote(), now)

    def _wait(self) -> list[tuple[_Hand, int, Part]]:
        """What is finished, after a while: one part, or none."""
        awaited: dict[Any, _Hand] = {ref: hand for hand in self._hands.values() for ref in hand.given}
        awaited |= {hand.loading: hand for hand in self._hands.values() if hand.loading is not None}
        self._say_who_is_waited_for()
        if not awaited:
            time.sleep(LOOK_SECONDS)
            return []
        done, _ = ray.wait(list(awaited), num_returns=1, timeout=LOOK_SECONDS)
        for ref in done:
            hand = awaited[ref]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                raise _on(hand.where, error.cause) from error
            except RayError as error:
                self._lose(hand, error)
                continue
            if ref != hand.loading:
                return [(hand, hand.given.pop(ref), result)]
            self._join(hand, result)
        return []

    def _join(self, hand: _Hand, known: Known) -> None:
        """It has loaded its model. Raises UsageError where that makes another run of it than those before."""
        hand.loading = None
        if self._known is None:
            self._known, self._first = known, hand
        elif differing := differences(self._known.plan, known.plan, (f"on {self._first.where}", f"on {hand.where}")):
            raise UsageError(f"--ray: the nodes differ in {'; '.join(differing)}: let all have the same, or say which")

    def _lose(self, hand: _Hand, error: RayError) -> None:
        """A worker has died, or its node. What it had goes to others. Raises UsageError and EngineFailing."""
        if hand.loading is not None and _is_alive(hand.node):
            why = _why_it_ended(error)
            raise UsageError(f"--ray: node {hand.where}: the worker ended before its model was loaded ({why})")
        with suppress(RayError):
            ray.kill(hand.actor)
        del self._hands[hand.node]
        lost = sorted(hand.given.values())
        self._deaths.update(lost)
        self._waiting.extendleft(sorted([*lost, *(shard for shard, _ in hand.held)], reverse=True))
        for shard in lost:
            if self._deaths[shard] == DEATHS:
                raise EngineFailing(
                    f"{DEATHS} workers ended while they predicted part {shard}, the last on node {hand.where} "
                    f"({_why_it_ended(error)})"
                )

    def _say_who_is_waited_for(self) -> None:
        """Once of each."""
        if self._quiet:
            return
        for hand in self._hands.values():
            if hand.loading is not None and not hand.is_told and time.monotonic() - hand.began > SILENT_SECONDS:
                hand.is_told = True
                say(f"waiting for {hand.where}: its model is being loaded, or other work has its CPUs")
        if not self._hands and not self._is_told:
            say("no node is left: waiting for one")
        self._is_told = not self._hands


def _on(where: str, error: Exception) -> Exception:
    """What a worker raised, with the node that it is on."""
    if isinstance(error, UsageError | InvalidSettingsError | StoreError | EngineFailing):
        return type(error)(f"node {where}: {error}")
    return error


def _is_alive(node: str) -> bool:
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


def elsewhere(settings: Settings) -> Settings:
    """The settings for other processes: no path that depends on where this one is."""
    given = dict(settings)  # of a class of its own where there is a file, which a node does not know
    return Settings.model_construct(**{**given, "models": settings.models.absolute()})


def _elsewhere_image(image: Image) -> Image:
    return replace(image, place=image.place.absolute()) if isinstance(image.place, Path) else image


def _to_be_seen(images: Images) -> list[Path]:
    """One image, which is there, of each folder."""
    seen: dict[Path, Path] = {}
    for image in images.images:
        if isinstance(image.place, Path) and image.place.parent not in seen and os.path.lexists(image.place):
            seen[image.place.parent] = image.place.absolute()
    return list(seen.values())


def _why_it_ended(error: RayError) -> str:
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return str(error).strip().rpartition("\n")[2].strip()  # behind a stack trace: what could not be imported there
    return "killed, out of memory or crashed: Ray's logs on that node say more"


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
