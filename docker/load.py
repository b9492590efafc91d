"""Clients that ask one after the other, for test.sh; prints what they were answered, as JSON.

    python docker/load.py http://127.0.0.1:8000 IMAGE --clients 8 --seconds 10

A client ends when the time is over, or at the first 503 or connection that fails: the server is going, or gone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 60
GONE = "gone"
"""What an answer that never came counts as."""


def ask(address: str, image: bytes, go_on: Callable[[], bool]) -> Counter[str]:
    """Answers by status, and those with 200 by model version too."""
    seen: Counter[str] = Counter()
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    while go_on() and not {"503", GONE} & set(seen):
        try:
            connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            seen[GONE] += 1
        else:
            seen[str(answer.status)] += 1
            if answer.status == 200:
                seen[f"version {json.loads(body)['model']['version']}"] += 1
    connection.close()
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(prog="python docker/load.py", description="Ask a server, again and again.")
    parser.add_argument("url", help="the server")
    parser.add_argument("image", type=Path, help="PNG that is posted")
    parser.add_argument("--clients", type=int, default=8, help="how many ask at the same time")
    parser.add_argument("--seconds", type=float, default=10, help="for how long")
    options = parser.parse_args()
    image, end = options.image.read_bytes(), time.monotonic() + options.seconds
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(options.clients) as pool:
        address = urlsplit(options.url).netloc
        for seen in [pool.submit(ask, address, image, lambda: time.monotonic() < end) for _ in range(options.clients)]:
            total += seen.result()
    print(json.dumps(dict(sorted(total.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
