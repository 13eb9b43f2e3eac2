"""HTTPS from end to end, at HAProxy and at Serve's own proxy: who asks, how, and what a renewal changes."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from deployments.certificate import Certificate
from deployments.command import cli
from tests.support.certificates import make_certificate, renew, trusting
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=["haproxy", "python"])
def secure(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Path,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    options = ("--dtype", "float32", "--num-threads", "1", "--proxy", request.param)
    options += ("--host", "0.0.0.0", "--ssl-certfile", str(certificate.chain), "--ssl-keyfile", str(certificate.key))
    server = Cluster(tiny_checkpoint, tmp_path_factory.mktemp("secure") / "serve.txt", *options)
    server.url = server.url.replace("http:", "https:")
    with server.running():
        yield server


@pytest.fixture(autouse=True)
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))


def test_the_ready_line_names_it(secure: Cluster) -> None:
    assert f" at {secure.url} (in a browser" in secure.text()


def test_nothing_else_can_be_reached_from_outside(secure: Cluster) -> None:
    """An ingress process that could be would speak plain HTTP."""
    listening = {
        (place.laddr.ip.removeprefix("::ffff:"), place.laddr.port)
        for pid in [secure.process.pid, *secure.pids()]
        for place in connections_of(pid)
        if place.status == psutil.CONN_LISTEN
    }
    outside = {(ip, port) for ip, port in listening if not ipaddress.ip_address(ip).is_loopback}
    assert outside == {("0.0.0.0", secure.port)}
    assert len(listening) > len(outside)


def connections_of(pid: int) -> list[Any]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).net_connections("tcp")
    return []


def test_the_sdk_streams_over_it(secure: Cluster) -> None:
    sdk = openai.OpenAI(base_url=f"{secure.url}/v1", api_key="none", timeout=120, max_retries=0)
    options = {"model": secure.name, "prompt": "def add(a, b):\n    return", "max_tokens": 50, "temperature": 0}
    whole = sdk.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(sdk.completions.create(**options, stream=True))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert len(chunks) > 3


def test_the_command_completes_over_it(secure: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.py"
    source.write_text("def add(a, b):\n    return")
    assert cli.main(["complete", str(source), "--mode", "raw", "--max-tokens", "8", "--url", secure.url]) == 0
    assert capsys.readouterr().out.strip()


def test_plain_http_is_shut_out(secure: Cluster) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.url.replace("https:", "http:") + "/version", timeout=60)
    with socket.create_connection(("127.0.0.1", secure.port), timeout=60) as plain:
        received = b""
        with contextlib.suppress(ConnectionResetError):
            plain.sendall(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n")
            received = b"".join(iter(lambda: plain.recv(4096), b""))
    assert b"HTTP/" not in received
    if secure.pids("haproxy"):  # Python's server does not tell of it
        wait_until(lambda: shut_out(secure) >= 2, "it is not counted")


def shut_out(server: Cluster) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    return sum(float(n) for n in re.findall(r'connections_refused_total\{[^}]*reason="tls_handshake"\} (\S+)', text))


def test_pages_that_were_read_in_the_clear_may_not_speak_to_it(secure: Cluster) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    for origin, status in ((secure.url, 200), (secure.url.replace("https:", "http:"), 403)):
        answered = httpx.post(f"{secure.url}/v1/completions", json=body, headers={"origin": origin}, timeout=120)
        assert answered.status_code == status, answered.text


def in_front(server: Cluster) -> list[int]:
    return [pid for kind in ("haproxy", "ray::Proxy", "ray::ServeReplica") for pid in server.pids(kind)]


def test_a_renewed_certificate_is_shown_without_a_restart(
    secure: Cluster, certificate: Certificate, tmp_path: Path
) -> None:
    """Last, since the others know the old one."""
    old = trusting(certificate)
    newer = make_certificate(tmp_path)
    pids = in_front(secure)
    assert pids
    with httpx.Client(verify=old, timeout=120, limits=httpx.Limits(keepalive_expiry=None)) as kept:
        assert kept.get(f"{secure.url}/version").status_code == 200
        renew(certificate, by=newer)

        def shown() -> bool:
            with contextlib.suppress(httpx.ConnectError):
                return httpx.get(f"{secure.url}/version", verify=trusting(newer), timeout=60).status_code == 200
            return False

        wait_until(shown, "it still shows the old one", period_s=0.5)
        assert kept.get(f"{secure.url}/version").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{secure.url}/version", verify=old, timeout=60)
    assert in_front(secure) == pids
