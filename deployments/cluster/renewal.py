"""A renewed certificate is taken up by servers that run: who renews it (cert-manager, certbot) asks for no restart."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from deployments.certificate import Certificate, Stamp
from deployments.cluster.haproxy_admin import ask

logger = logging.getLogger(__name__)

LOOK_S = 10.0

_looking: set[asyncio.Task[None]] = set()
"""An event loop alone does not keep its tasks alive."""


class RenewalError(RuntimeError):
    """HAProxy has not taken the certificate; the message is its own."""


class Renewal:
    """Looks at the certificate's files, and calls `take` in a thread at first, and when they have changed.

    take: False where there is nobody yet who could. Raises RenewalError, OSError or ssl.SSLError where the files cannot
    be taken: one of the two may be renewed before the other. In either case it is called again at the next look.
    """

    def __init__(self, certificate: Certificate, take: Callable[[], bool], every_s: float = LOOK_S) -> None:
        self._certificate = certificate
        self._take = take
        self._every_s = every_s
        self._taken: Stamp | None = None
        self._problem = ""

    def begin(self) -> None:
        """In the running event loop, until that ends."""
        task = asyncio.get_running_loop().create_task(self._keep_looking())
        _looking.add(task)
        task.add_done_callback(_looking.discard)

    def look(self) -> None:
        try:
            stamp = self._certificate.stamp()
            if stamp != self._taken and self._take():
                self._taken, self._problem = stamp, ""
        except (RenewalError, OSError, ssl.SSLError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.warning("the certificate in %s is not taken: %s", self._certificate.chain, error)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(self._every_s)


class HaproxyCertificate:
    """The certificate that HAProxy shows, by its runtime API; it may be given the one that it has.

    admin: its admin socket. name: of the certificate, as HAProxy's configuration says it.
    https://docs.haproxy.org/2.8/management.html#9.3-set%20ssl%20cert
    """

    def __init__(self, certificate: Certificate, admin: Path, name: Path) -> None:
        self._certificate = certificate
        self._admin = admin
        self._name = name

    def take(self) -> bool:
        """Have it show what is in the files; False where it is not there yet.

        Raises RenewalError where it refuses, OSError where a file is missing or it does not answer.
        """
        texts = [path.read_text() for path in (self._certificate.chain, self._certificate.key)]
        pem = "\n".join(line for line in "\n".join(texts).splitlines() if line.strip())  # an empty one would end it
        try:
            lock = os.open(self._admin.with_name("renewal.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # HAProxy has one change at a time, and a node several processes
            return self._replace(pem)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        finally:
            os.close(lock)

    def _replace(self, pem: str) -> bool:
        said = ask(self._admin, f"set ssl cert {self._name} <<\n{pem}\n")
        said += ask(self._admin, f"commit ssl cert {self._name}")
        if "Success!" not in said:
            ask(self._admin, f"abort ssl cert {self._name}")
            raise RenewalError(" ".join(said.split()))
        return True
