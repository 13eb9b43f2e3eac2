"""Servers that files share, beside the one of two ranks: `tests/support/sharing.py` has these files in a row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.cluster import START_SECONDS, Cluster
from tests.support.sharing import shared
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.administered import Administered

ONE_RANK = ("--dtype", "float32", "--num-threads", "1")
PLACES = 60
"""That the closed server's engine and its queue have: more than any other test asks at once."""
RESUME_S = 2.0
"""So long a request of the server with one engine waits for the next one."""


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Of one engine at first: load has brought the second, which stays."""

    @contextmanager
    def served() -> Iterator[Cluster]:
        options = (*ONE_RANK, "--max-replicas", "2", "--upscale-delay-s", "0", "--downscale-delay-s", "3600")
        options += ("--target-queue-delay-s", "0.00001")  # which no engine reaches that has work: the tiny one is quick
        options += ("--routing-imbalance", "2", "--resume-timeout-s", "120", "--health-check-period-s", "2")
        options += ("--drain-timeout-s", "40", "--api.keep-alive-timeout-s", "600")
        # noise repeats itself: with drafts a stream would be over before it is disturbed
        options += ("--speculative-tokens", "0")
        server = Cluster(tiny_checkpoint, tmp_path_factory.mktemp("pair") / "serve.txt", *options)
        with server.running():
            assert len(server.pids("RankProcess")) == 1
            _load_until_a_second_starts(server)
            wait_until(lambda: len(server.lines("engine.ready")) == 2, server.text, START_SECONDS)
            yield server

    return shared(request.config, "pair", served)


def _load_until_a_second_starts(server: Cluster) -> None:
    """Prompts come faster than one engine computes them. What load has ordered is kept for `downscale-delay-s`."""
    enough = threading.Event()

    def ask(client: int) -> None:
        number = 0
        with httpx.Client(base_url=server.url, timeout=120) as asking:
            while not enough.is_set():
                number += 1
                prompt = [10 + client, 10 + number % 200, *range(20, 120)]
                body = {"prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
                assert asking.post("/v1/completions", json=body).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask, client) for client in range(8)]
        try:
            wait_until(lambda: len(server.lines("engine.starting")) == 2, server.text, START_SECONDS)
        finally:
            enough.set()
        for client in clients:
            client.result()


@pytest.fixture(scope="module")
def closed(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Administered:
    """Of two ingresses behind HAProxy, with sign-on: ada is an administrator, bob a member of the team search."""
    from tests.support.administered import Administered, database
    from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, identity_provider
    from tests.support.over_tls import Certificates

    @contextmanager
    def served() -> Iterator[Administered]:
        directory = tmp_path_factory.mktemp("closed")
        secret = directory / "client-secret"
        secret.touch(mode=0o600)
        secret.write_text(CLIENT_SECRET)
        certificates = Certificates.make(tmp_path_factory.mktemp("certificates"))
        options = (*ONE_RANK, *certificates.options, "--ingress-replicas", "2")
        options += ("--max-num-seqs", "4", "--max-queued-requests", str(PLACES - 4))
        with identity_provider() as provider, certificates.trusted():
            provider.add("ada", "Ada Lovelace", "admins")
            provider.add("bob", "Bob Jansen", "searchers")
            cluster = Cluster(tiny_checkpoint, directory / "serve.txt", *options)
            settings = {
                "database": database(directory),
                "public_url": cluster.url,
                "oidc_issuer": provider.issuer,
                "oidc_client_id": CLIENT_ID,
                "oidc_client_secret_file": str(secret),
                "oidc_admin_group": "admins",
                "oidc_team_groups": "searchers=search:member",
            }
            cluster.environment = {f"STARCODER_TEAMS__{name.upper()}": value for name, value in settings.items()}
            with cluster.running():
                yield Administered(cluster, certificates, directory, ingresses=2)

    return shared(request.config, "closed", served)


@pytest.fixture(scope="module")
def alone(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Administered:
    """Of one engine, behind Serve's own proxy; nobody was asked for a key until there was one."""
    from tests.support.administered import Administered, database
    from tests.support.over_tls import Certificates

    @contextmanager
    def served() -> Iterator[Administered]:
        directory = tmp_path_factory.mktemp("alone")
        certificates = Certificates.make(tmp_path_factory.mktemp("certificates"))
        options = (*ONE_RANK, *certificates.options, "--proxy", "python", "--max-queued-requests", "16")
        options += ("--metrics-dir", str(directory / "metrics"), "--resume-timeout-s", str(RESUME_S))
        log, environment = directory / "serve.txt", {"STARCODER_TEAMS__DATABASE": database(directory)}
        cluster = Cluster(tiny_checkpoint, log, *options, **environment)
        with certificates.trusted(), cluster.running():
            yield Administered(cluster, certificates, directory, ingresses=1)

    return shared(request.config, "alone", served)
