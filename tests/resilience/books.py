"""What clients sent and were answered, to be compared with what the server counted and logged."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
from prometheus_client.parser import text_string_to_metric_families

from service.http.problems import CLIENT_LEFT
from service.observability.metrics import OUTCOMES
from tests.service.harness import Server, until
from tests.service.http.connections import read_answer

LEFT = CLIENT_LEFT
"""What is expected for a request whose client left, or whose connection ended, before it was answered."""

RouteStatus = tuple[str, int]


@dataclass
class Books:
    """The clients' book. `unknown` are requests whose client left at once: nobody knows whether their answer had begun
    by then, so that they count as 200 or as left.
    """

    answers: Counter[int] = field(default_factory=Counter)
    unknown: int = 0

    def write(self, statuses: Iterable[int | None]) -> None:
        for status in statuses:
            if status is None:
                self.unknown += 1
            else:
                self.answers[status] += 1

    @property
    def sent(self) -> int:
        return self.answers.total() + self.unknown

    def counted(self, server: Server) -> Counter[RouteStatus]:
        """What the metrics hold of the requests before this one, which asks for them."""
        with server.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = read_answer(connection)
        self.write([answer.status])
        counts: dict[str, Counter[RouteStatus]] = {}
        dropped = 0
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                labels = sample.labels
                if sample.name in ("maskserve_requests_total", "maskserve_request_seconds_count"):
                    counts.setdefault(sample.name, Counter())[labels["route"], int(labels["status"])] += int(
                        sample.value
                    )
                elif sample.name == "http_server_request_duration_seconds_count":
                    route = labels["http_route"] or "unmatched"
                    counts.setdefault(sample.name, Counter())[route, int(labels["http_response_status_code"])] += int(
                        sample.value
                    )
                elif sample.name == "maskserve_dropped_total":
                    dropped += int(sample.value)
        first, *others = counts.values()
        assert all(other == first for other in others), "two metrics of the same requests differ"
        assert dropped == sum(count for (_, status), count in first.items() if status in OUTCOMES)
        return first

    def check(self, by_status: Counter[int]) -> None:
        """Whether a book of the server's is the clients'."""
        rest = Counter(by_status)
        rest.subtract(self.answers)
        surplus = {status: count for status, count in rest.items() if count}
        assert set(surplus) <= {200, LEFT}, f"the server has more (or less, where negative) of {surplus}"
        assert min(surplus.values(), default=0) >= 0, surplus
        assert sum(surplus.values()) == self.unknown, f"the server has {surplus} more than it was sent"


def logged(server: Server) -> Counter[RouteStatus]:
    """The lines of the log about requests."""
    lines = [orjson.loads(line) for line in tuple(server.log)]
    return Counter((line["route"], line["status"]) for line in lines if line["logger"] == "service.requests")


def by_status(book: Counter[RouteStatus]) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for (_, status), count in book.items():
        statuses[status] += count
    return statuses


def agree(books: Books, server: Server) -> None:
    """Clients, metrics and log have the same requests. That a client has left is noticed only later: it is waited for,
    until as many are there as were sent.
    """
    until(lambda: logged(server).total() >= books.sent)
    lines, sent = logged(server), books.sent
    counted = books.counted(server)
    assert lines.total() == sent
    assert counted == lines
    books.check(by_status(counted) + Counter({200: 1}))  # the one that asked for it is in the clients' book


def reset(connection: socket.socket) -> None:
    """Close it as a process that dies does: without a word of farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
