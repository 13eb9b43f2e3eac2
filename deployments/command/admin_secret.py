"""`python -m deployments.command.admin_secret`: the first administrator's key, from the database into a Secret.

Run by a Job of Kubernetes whose account may read and patch this one Secret (k8s/components/admin-key). The key is in no
log, no file and no argument: only in this process, and in the Secret.
"""

from __future__ import annotations

import argparse
import base64
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, the API server's authority, and the namespace that it is in."""

API = "https://kubernetes.default.svc"
ENTRY = "key"
PATIENCE_S = 120.0
_RETRY_S = 2.0
_ANSWER_S = 10.0


class ClusterSecret:
    """One Secret, by Kubernetes' API: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/.

    account: a directory as ACCOUNT. Every call raises httpx.HTTPError where the API server is not there, or refuses.
    """

    def __init__(self, name: str, api: str = API, account: Path = ACCOUNT) -> None:
        self.name = name
        self._path = f"/api/v1/namespaces/{(account / 'namespace').read_text().strip()}/secrets/{name}"
        self._api = api
        self._headers = {"authorization": f"Bearer {(account / 'token').read_text().strip()}"}
        self._authority = ssl.create_default_context(cafile=str(account / "ca.crt"))

    def is_filled(self) -> bool:
        with self._client() as client:
            response = client.get(self._path).raise_for_status()
        return ENTRY in (response.json().get("data") or {})

    def fill(self, key: str) -> None:
        change = {"data": {ENTRY: base64.b64encode(key.encode()).decode()}}
        headers = {"content-type": "application/merge-patch+json"}
        with self._client() as client:
            client.patch(self._path, json=change, headers=headers).raise_for_status()

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._api, headers=self._headers, verify=self._authority, timeout=_ANSWER_S, trust_env=False
        )


def make_key() -> str:
    """A new administrator's key; empty where there is one. Raises CalledProcessError where none can be made."""
    program = [sys.executable, "-m", "deployments.command.cli"]
    command = [*program, "keys", "create", "--admin", "--name", "bootstrap", "--if-none"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def run(secret: ClusterSecret, make: Callable[[], str] = make_key, patience_s: float = PATIENCE_S) -> str:
    """Fill the Secret unless there is a key already; what was done. Raises what `secret` and `make` raise.

    The Secret is asked first: a key that cannot be put anywhere would be lost.
    """
    if secret.is_filled():
        return f"The Secret {secret.name} has a key."
    key = make()
    if not key:
        return f"There is an administrator's key already, and it is not in the Secret {secret.name}."
    deadline = time.monotonic() + patience_s
    while True:
        try:
            secret.fill(key)
            return f"The Secret {secret.name} has the first administrator's key."
        except httpx.HTTPError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deployments.command.admin_secret", description=__doc__)
    parser.add_argument("--secret", required=True, help="its name; it is there, and in the pod's namespace")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        print(run(ClusterSecret(options.secret)))
    except (httpx.HTTPError, OSError, subprocess.CalledProcessError) as error:
        print(f"no key was put into the Secret {options.secret}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
