"""The server, in whose groups process 1 says that it computes in half precision, as where one GPU can and one cannot:
`python -m tests.service.group.unlike`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

if __name__ == "__main__":
    from service import server
    from service.__main__ import main
    from service.group import member

    ready, serve = server._ready, member.serve

    def unlike(app: Any, membership: Any, tracing: Any) -> int:
        if membership.part.index == 1:
            vars(server)["_ready"] = lambda catalog: replace(ready(catalog), precisions="f16")
        return serve(app, membership, tracing)

    vars(member)["serve"] = unlike
    main()
