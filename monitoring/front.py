"""Where a node's server takes connections: told by who listens there to the node's exporter, and asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "front.json"
TIMEOUT_S = 10.0


def reachable(host: str) -> str:
    """An address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


@dataclass(frozen=True)
class Front:
    """Where a node's server listens, which may be everywhere, and the name of the model that it serves."""

    host: str
    port: int
    tls: bool
    model: str

    def get(self, path: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes] | None:
        """Status and body of the answer; None where there is none."""
        with contextlib.closing(self._connection(timeout_s)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                return None

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host = reachable(self.host)
        if not self.tls:
            return http.client.HTTPConnection(host, self.port, timeout=timeout_s)
        # The certificate is for the names that clients use. Nothing secret is asked here, nor told.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, self.port, timeout=timeout_s, context=context)


def tell(directory: Path, front: Front) -> None:
    """Have the exporter of `directory` ask there. Raises OSError where the directory cannot be written."""
    following = directory / f"{FILE}.next"
    following.write_text(json.dumps(asdict(front)))
    following.rename(directory / FILE)


def told(directory: Path) -> Front | None:
    """What was told last, in the directory or in those of nodes below it; None where nothing was that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        files = [*directory.glob(FILE), *directory.glob(f"*/{FILE}")]
        if files:
            return Front(**json.loads(max(files, key=lambda file: file.stat().st_mtime).read_text()))
    return None
