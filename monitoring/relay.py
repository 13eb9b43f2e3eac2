"""What other exporters of this machine show, on the node's own: Ray's answers on loopback alone."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TIMEOUT_S = 5.0

_straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""They are of this machine, whatever proxy the environment names."""


def with_others(own: WSGIApplication, others: Mapping[str, str]) -> WSGIApplication:
    """`own`, but `/JOB` answers what `/metrics` of the job's address does, 502 where it does not. others: by job."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        address = others.get(environ["PATH_INFO"].strip("/"))
        if address is None:
            return own(environ, start_response)
        try:
            with _straight.open(f"http://{address}/metrics", timeout=TIMEOUT_S) as response:
                text, kind = response.read(), response.headers.get("content-type", "text/plain")
        except (OSError, HTTPException) as error:
            start_response("502 Bad Gateway", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{address} does not answer: {error}\n".encode()]
        start_response("200 OK", [("Content-Type", kind)])
        return [text]

    return answer
