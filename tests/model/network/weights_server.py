"""What download.pytorch.org is to torchvision, on the loopback: torchvision's own code downloads from it and checks."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor


@dataclass
class WeightsServer:
    """Serves `files` by name. `requests` are the names that were asked for."""

    address: str
    home: Path
    monkeypatch: pytest.MonkeyPatch
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def publish(self, model: str, weights: str, state: Mapping[str, Tensor]) -> str:
        """Makes `state` torchvision's `weights` of `model`, under a name that ends in its hash. Returns the name."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        name = f"{model}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        self.files[name] = content
        entry = torchvision.models.get_model_weights(model)[weights]
        self.monkeypatch.setattr(entry.value, "url", f"{self.address}/{name}")
        return name

    def cached(self, name: str) -> Path:
        """Where torchvision keeps the file that it downloaded."""
        return self.home / "hub" / "checkpoints" / name


@contextmanager
def weights_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A server, with an empty hub cache in `home`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            server.requests.append(name)
            content = server.files.get(name)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            """Keeps the tests' output clean."""

    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = WeightsServer(f"http://127.0.0.1:{listener.server_port}", home, monkeypatch)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
