"""A server that answers as it is told: with errors that a real one gives too rarely, and never when a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

MODELS = orjson.dumps({"default": "probe", "models": [{"name": "probe", "version": 1, "labels": {"1": "circle"}}]})
NOTHING_FOUND = orjson.dumps(
    {
        "model": {"name": "probe", "version": 1, "precision": "f32"},
        "image": {"width": 8, "height": 4},
        **{column: [] for column in ("boxes", "labels", "label_ids", "scores", "masks")},
        "timing_ms": {},
    }
)


@dataclass(frozen=True)
class Reply:
    """`status` 0 closes the connection without an answer. `seconds` pass before it; the body is sent in `pieces`."""

    status: int = 200
    body: bytes = NOTHING_FOUND
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    pieces: int = 1


def problem(status: int, slug: str, **headers: str) -> Reply:
    """As the real server's; `Retry_After="1"` is a header."""
    body = {"type": f"urn:maskserve:problem:{slug}", "title": slug, "status": status, "detail": "because"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, orjson.dumps(body), {"Content-Type": "application/problem+json", **named})


@dataclass
class Loopback:
    """`times` and `heads` tell when each POST came and with which headers."""

    url: str
    times: list[float] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def loopback(replies: Sequence[Reply], port: int = 0, models: bytes = MODELS) -> Iterator[Loopback]:
    """Answers one POST after the other with `replies`, then always with the last; every GET with `models`."""
    over = threading.Event()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(Reply(body=models))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                reply = replies[min(len(seen.times), len(replies) - 1)]
                seen.times.append(time.monotonic())
                seen.heads.append(dict(self.headers))
            gone = over.wait(reply.seconds)
            self._answer(Reply(0) if gone else reply)

        def _answer(self, reply: Reply) -> None:
            self.close_connection = reply.status == 0
            if reply.status == 0:
                return
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            size = -(-len(reply.body) // reply.pieces)
            for start in range(0, len(reply.body), size):
                try:
                    self.wfile.write(reply.body[start : start + size])
                except OSError:  # the client has left
                    self.close_connection = True
                    return
                if reply.pieces > 1 and over.wait(0.05):
                    return

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        seen = Loopback(f"http://127.0.0.1:{server.server_port}")
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            server.shutdown()
            thread.join()
