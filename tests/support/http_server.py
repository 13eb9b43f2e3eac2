"""A real HTTP server in a thread, on a port the system picks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from deployments.certificate import Certificate
from tests.support.waiting import wait_until


@contextmanager
def serving(
    app: ASGIApp,
    port: int = 0,
    http: Any = "auto",
    loop: Any = "auto",
    certificate: Certificate | None = None,
    lifespan: Any = "off",
) -> Iterator[str]:
    """Run `app`; gives its base URL and stops it on every path.

    port: 0: a free one. http: uvicorn's protocol. loop: its event loop; auto: uvloop, where that is installed.
    certificate: for HTTPS; plain HTTP if not given. lifespan: `on`: the app is told when it begins and ends.
    """
    listener = socket.create_server(("127.0.0.1", port))
    tls = {} if certificate is None else {"ssl_certfile": certificate.chain, "ssl_keyfile": certificate.key}
    config = uvicorn.Config(
        app, log_level="warning", lifespan=lifespan, timeout_graceful_shutdown=5, http=http, loop=loop, **tls
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until(lambda: server.started, "the server does not start")
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
