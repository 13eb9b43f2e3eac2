"""HTTPS from end to end, at whichever proxy is in front: who asks, how, and what a renewal changes."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest

from deployments.certificate import Certificate
from deployments.command import cli
from tests.support.certificates import make_certificate, renew, trusting
from tests.support.cluster import Cluster
from tests.support.gatekeepers import bearer
from tests.support.waiting import wait_until

EVERYWHERE = ("--host", "0.0.0.0")


class Certificates(NamedTuple):
    """shown: by a server, as it starts. newer: what it is renewed by."""

    shown: Certificate
    newer: Certificate

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        return cls(*(make_certificate(directory, name) for name in cls._fields))

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command."""
        return (*EVERYWHERE, "--ssl-certfile", str(self.shown.chain), "--ssl-keyfile", str(self.shown.key))

    @contextlib.contextmanager
    def trusted(self) -> Iterator[None]:
        """Both, by every client in this process, beside those that are trusted already."""
        known = [Path(file)] if (file := os.environ.get("SSL_CERT_FILE")) else []
        together = self.shown.chain.with_name("trusted.crt")
        together.write_bytes(b"".join(file.read_bytes() for file in (*known, self.shown.chain, self.newer.chain)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(together))
            yield


class Secure(NamedTuple):
    """A closed server that listens everywhere. key: of a team."""

    server: Cluster
    certificates: Certificates
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.key)


def connections_of(pid: int) -> list[Any]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).net_connections("tcp")
    return []


def shut_out(server: Cluster) -> bool:
    return any(line["reason"] == "tls_handshake" for line in server.lines("connection.refused"))


def in_front(server: Cluster) -> list[int]:
    return [pid for kind in ("haproxy", "ray::Proxy", "ray::ServeReplica") for pid in server.pids(kind)]


class OverTls:
    """The tests of any server over TLS; whose class has it as its base brings the fixture `secure`."""

    def test_the_ready_line_names_it(self, secure: Secure) -> None:
        assert f" at {secure.server.url} (in a browser" in secure.server.text()

    def test_nothing_else_can_be_reached_from_outside(self, secure: Secure) -> None:
        """An ingress process that could be would speak plain HTTP."""
        server = secure.server
        listening = {
            (place.laddr.ip.removeprefix("::ffff:"), place.laddr.port)
            for pid in [server.process.pid, *server.pids()]
            for place in connections_of(pid)
            if place.status == psutil.CONN_LISTEN
        }
        outside = {(ip, port) for ip, port in listening if not ipaddress.ip_address(ip).is_loopback}
        assert outside == {("0.0.0.0", server.port)}
        assert len(listening) > len(outside)

    def test_the_sdk_streams_over_it(self, secure: Secure) -> None:
        server = secure.server
        sdk = openai.OpenAI(base_url=f"{server.url}/v1", api_key=secure.key, timeout=120, max_retries=0)
        options = {"model": server.name, "prompt": "def add(a, b):\n    return", "max_tokens": 600, "temperature": 0}
        options["extra_body"] = {"ignore_eos": True}
        whole = sdk.completions.create(**options)  # type: ignore[call-overload]
        chunks = list(sdk.completions.create(**options, stream=True))  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert len(chunks) > 1

    def test_the_command_completes_over_it(
        self, secure: Secure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STARCODER_API_KEY", secure.key)
        source = tmp_path / "x.py"
        source.write_text("def add(a, b):\n    return")
        assert (
            cli.main(["complete", str(source), "--mode", "raw", "--max-tokens", "8", "--url", secure.server.url]) == 0
        )
        assert capsys.readouterr().out.strip()

    def test_plain_http_is_shut_out(self, secure: Secure) -> None:
        with pytest.raises(httpx.TransportError):
            httpx.get(secure.server.url.replace("https:", "http:") + "/version", timeout=60)
        with socket.create_connection(("127.0.0.1", secure.server.port), timeout=60) as plain:
            received = b""
            with contextlib.suppress(ConnectionResetError):
                plain.sendall(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n")
                received = b"".join(iter(lambda: plain.recv(4096), b""))
        assert b"HTTP/" not in received
        if secure.server.pids("haproxy"):  # Python's server does not tell of it
            wait_until(lambda: shut_out(secure.server), "it is not told")

    def test_pages_that_were_read_in_the_clear_may_not_speak_to_it(self, secure: Secure) -> None:
        url, body = secure.server.url, {"prompt": "x", "max_tokens": 1}
        for origin, status in ((url, 200), (url.replace("https:", "http:"), 403)):
            headers = {**secure.headers, "origin": origin}
            answered = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=120)
            assert answered.status_code == status, answered.text

    def test_a_renewed_certificate_is_shown_without_a_restart(self, secure: Secure) -> None:
        url, (certificate, by) = secure.server.url, secure.certificates
        old, newer = trusting(certificate), trusting(by)
        pids = in_front(secure.server)
        assert pids
        with httpx.Client(verify=old, timeout=120, limits=httpx.Limits(keepalive_expiry=None)) as kept:
            assert kept.get(f"{url}/version", headers=secure.headers).status_code == 200
            renew(certificate, by)

            def shown() -> bool:
                with contextlib.suppress(httpx.ConnectError):
                    answer = httpx.get(f"{url}/version", headers=secure.headers, verify=newer, timeout=60)
                    return answer.status_code == 200
                return False

            wait_until(shown, "it still shows the old one", period_s=0.5)
            assert kept.get(f"{url}/version", headers=secure.headers).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/version", headers=secure.headers, verify=old, timeout=60)
        assert in_front(secure.server) == pids
