"""A page that is there when somebody asks: a thread collects it on its own clock.

Where every processor is taken, a scrape would else wait for the whole collection, and time out.
"""

from __future__ import annotations

import gzip
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, gzip_accepted

from monitoring.front_metrics import COLLECTED_AT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
_QUICK = 1
"""Level of compression: of a page with its many equal lines, the best one makes half as much in ten times the time."""


class Bodies(NamedTuple):
    plain: bytes
    compressed: bytes


class ReadyPage:
    """Collects in a thread, every `period_s` seconds, until `close`. A WSGI application, which answers the last page.

    Each page says when it was collected. Where collecting fails, the last one stays. Raises what the first `collect`
    raises.
    """

    def __init__(self, collect: Callable[[], bytes], period_s: float = PERIOD_S) -> None:
        self._collect = collect
        self._period_s = period_s
        self._bodies = self._made()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="metrics-page", daemon=True)
        self._thread.start()

    def _made(self) -> Bodies:
        page = self._collect() + COLLECTED_AT.exposition(time.time()).encode()
        return Bodies(page, gzip.compress(page, _QUICK))

    def _keep(self) -> None:
        failed = False
        while not self._closed.wait(self._period_s):
            try:
                self._bodies = self._made()
                failed = False
            except Exception as error:  # whatever is wrong with the files now, the next page is tried all the same
                if not failed:
                    logger.error("metrics cannot be collected now, the last ones are shown: %s", error)
                failed = True

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bodies = self._bodies
        headers = [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)]
        if not gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            start_response("200 OK", headers)
            return [bodies.plain]
        start_response("200 OK", [*headers, ("Content-Encoding", "gzip")])
        return [bodies.compressed]

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
