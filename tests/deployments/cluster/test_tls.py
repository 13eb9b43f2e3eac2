"""HTTPS at HAProxy and at Serve's own proxy: who is let in, what is refused, and certificates that are renewed."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn.config

from deployments.certificate import Certificate
from deployments.cluster import haproxy, proxy, renewal
from deployments.cluster.haproxy_log import refusal
from deployments.cluster.proxy_settings import ProxySettings
from deployments.cluster.renewal import HaproxyCertificate, Renewal, RenewalError
from deployments.http.connection import GuardedProtocol
from deployments.limits import ApiLimits
from tests.support.certificates import make_certificate, renew, trusting
from tests.support.haproxy_front import Front, Rendered, Running, answer
from tests.support.http_server import serving
from tests.support.log_lines import captured
from tests.support.waiting import eventually, wait_until

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path, "other")


@pytest.fixture
def running(front: Front, behind: int, certificate: Certificate) -> Running:
    running: Running = front(behind, certificate, head_timeout_s=2, max_head_bytes=4096, max_connections=3)
    return running


def handshake(port: int, trusted: Certificate, **versions: ssl.TLSVersion) -> ssl.SSLSocket:
    context = trusting(trusted)
    for name, version in versions.items():
        setattr(context, name, version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30), server_hostname="localhost")


def in_the_clear(port: int) -> bytes:
    """What a client is told that does not speak TLS, until it is shut out."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain, contextlib.suppress(ConnectionResetError):
        plain.sendall(GET)
        return b"".join(iter(lambda: plain.recv(4096), b""))
    return b""


def test_haproxy_takes_the_configuration(rendered: Rendered, tmp_path: Path, certificate: Certificate) -> None:
    settings = ProxySettings(ssl_certfile=certificate.chain, ssl_keyfile=certificate.key).front
    (tmp_path / "c").write_text(haproxy.adapt(rendered(port=8123), settings, tmp_path, 100))
    haproxy.error_files(tmp_path)
    haproxy.link(certificate.chain, certificate.key, tmp_path)
    binary = haproxy._binary()
    assert binary is not None
    checked = subprocess.run([binary, "-c", "-f", str(tmp_path / "c")], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, "WARNING" in checked.stderr) == (0, False), checked.stderr


def test_the_private_key_is_not_copied(running: Running, tmp_path: Path, certificate: Certificate) -> None:
    secret = certificate.key.read_bytes()
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert {path.resolve() for path in copies} == {certificate.key}
    assert stat.S_IMODE(certificate.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_requests_come_to_the_ingress(running: Running, certificate: Certificate) -> None:
    answered = httpx.get(running.url, headers={"x-say": "hello"}, verify=trusting(certificate))
    assert (answered.status_code, answered.text, answered.http_version) == (200, "hello", "HTTP/1.1")
    assert "strict-transport-security" not in answered.headers


def test_http_2_is_not_offered(running: Running, certificate: Certificate) -> None:
    with handshake(running.port, certificate) as connection:
        assert (connection.version(), connection.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    with handshake(running.port, certificate, maximum_version=ssl.TLSVersion.TLSv1_2) as connection:
        assert "GCM" in connection.cipher()[0] or "CHACHA20" in connection.cipher()[0]  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_old_tls_is_refused_and_told(running: Running, certificate: Certificate) -> None:
    old = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(running.port, certificate, minimum_version=old, maximum_version=old)


def test_plain_http_is_refused_and_told(running: Running) -> None:
    assert in_the_clear(running.port) == b""
    wait_until(running.refused)
    assert running.refused() == [("tls_handshake", "127.0.0.1")]
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{running.port}")


def test_heads_have_their_limits(running: Running, certificate: Certificate) -> None:
    with handshake(running.port, certificate) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    with handshake(running.port, certificate) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 10_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_connections_have_their_limit(running: Running, certificate: Certificate) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            idle = stack.enter_context(handshake(running.port, certificate))
            idle.sendall(GET)
            assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        answered = httpx.get(running.url, timeout=30, verify=trusting(certificate))
        assert (answered.status_code, answered.json()["error"]["code"]) == (503, "too_many_connections")


def test_what_haproxy_tells_of_a_handshake() -> None:
    assert refusal(f"192.0.2.1 {haproxy.TLS} PR\n") == ("tls_handshake", "192.0.2.1")


# Renewal


def haproxys(certificate: Certificate, directory: Path) -> HaproxyCertificate:
    return HaproxyCertificate(certificate, directory / "a", directory / haproxy.CERTIFICATE)


def shows(port: int, certificate: Certificate) -> bool:
    with contextlib.suppress(ssl.SSLError), handshake(port, certificate):
        return True
    return False


def test_haproxy_shows_a_renewed_certificate(
    running: Running, tmp_path: Path, certificate: Certificate, other: Certificate
) -> None:
    """The same process goes on, and the connections that it has."""
    with handshake(running.port, certificate) as before:
        renew(certificate, by=other)
        assert not shows(running.port, other)
        assert haproxys(certificate, tmp_path).take()
        assert haproxys(certificate, tmp_path).take()  # another process of the node
        assert stat.S_IMODE((tmp_path / "renewal.lock").stat().st_mode) == 0o600
        assert shows(running.port, other)
        before.sendall(GET)
        assert before.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert running.process.poll() is None


def test_half_a_renewal_is_refused_by_haproxy(
    running: Running, tmp_path: Path, certificate: Certificate, other: Certificate
) -> None:
    known = make_certificate(tmp_path, "known")
    known.chain.write_bytes(certificate.chain.read_bytes())
    certificate.chain.write_bytes(other.chain.read_bytes())
    with pytest.raises(RenewalError, match="inconsistencies"):
        haproxys(certificate, tmp_path).take()
    assert shows(running.port, known)
    certificate.key.write_bytes(other.key.read_bytes())
    assert haproxys(certificate, tmp_path).take()
    assert shows(running.port, other)


def test_a_haproxy_that_is_not_there_yet_is_waited_for(tmp_path: Path, certificate: Certificate) -> None:
    assert not haproxys(certificate, tmp_path).take()
    assert not haproxys(certificate, tmp_path / "no such directory").take()


def test_the_haproxy_of_this_node_is_told(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has a directory of each node, below that which it is given."""
    asked: list[tuple[Path, str]] = []
    monkeypatch.setattr(renewal, "ask", lambda admin, command: asked.append((admin, command)) or "Success!")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "a"))
    (tmp_path / "node").mkdir()
    haproxy.renewal(certificate, "node").look()
    assert {admin for admin, _ in asked} == {tmp_path / "node" / "a"}
    name = tmp_path / "node" / haproxy.CERTIFICATE
    pem = [line for path in (certificate.chain, certificate.key) for line in path.read_text().splitlines()]
    assert [command for _, command in asked] == [
        f"set ssl cert {name} <<\n" + "\n".join(pem) + "\n",
        f"commit ssl cert {name}",
    ]


def test_files_are_taken_once_and_again_when_they_change(certificate: Certificate, other: Certificate) -> None:
    answers: list[object] = [False, True, RenewalError("not now"), RenewalError("not now"), True]

    def take() -> bool:
        given = answers.pop(0)
        if isinstance(given, RenewalError):
            raise given
        return bool(given)

    with captured() as said:
        renewal = Renewal(certificate, take)
        for _ in range(4):
            renewal.look()
        assert len(answers) == 3
        renew(certificate, by=other)
        for _ in range(4):
            renewal.look()
        assert answers == []
        certificate.key.unlink()
        renewal.look()
        assert said.text.count("is not taken") == 2  # once that it is refused, once that a file is missing


async def test_it_goes_on_looking(certificate: Certificate, other: Certificate) -> None:
    taken: list[bytes] = []

    def take() -> bool:
        taken.append(certificate.chain.read_bytes())
        return True

    Renewal(certificate, take, every_s=0.01).begin()
    await eventually(lambda: len(taken) == 1)
    renew(certificate, by=other)
    await eventually(lambda: taken[-1] == other.chain.read_bytes())


# Serve's own proxy


@pytest.fixture(params=["uvloop", "asyncio"])
def guarded(request: pytest.FixtureRequest, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of uvicorn as Serve starts it for HTTPS, guarded."""
    monkeypatch.setattr(uvicorn.config, "create_ssl_context", uvicorn.config.create_ssl_context)
    proxy.show(certificate, look_every_s=0.01)

    class Limited(GuardedProtocol):
        limits = ApiLimits(head_timeout_s=2, max_head_bytes=4096, max_connections=3, keep_alive_timeout_s=60)

    with serving(answer, http=Limited, loop=request.param, certificate=certificate) as url:
        assert url.startswith("https://")
        yield int(url.rpartition(":")[2])


def test_serves_proxy_lets_tls_in_and_nothing_else(guarded: int, certificate: Certificate) -> None:
    with handshake(guarded, certificate) as connection:
        assert (connection.version(), connection.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        connection.sendall(GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/" not in in_the_clear(guarded)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n", 408),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 10_000 + b"\r\n\r\n", 431),
        (b"\x00\x01\r\n\r\n", 400),
    ],
)
def test_serves_proxy_refuses_heads_over_tls(guarded: int, certificate: Certificate, sent: bytes, status: int) -> None:
    with handshake(guarded, certificate) as connection:
        connection.sendall(sent)
        received = b""
        while b"}" not in received and (piece := connection.recv(4096)):
            received += piece
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert b'"error"' in received


def test_serves_proxy_refuses_a_head_without_end(guarded: int, certificate: Certificate) -> None:
    with handshake(guarded, certificate) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"a" * 10_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


def test_serves_proxy_makes_room_over_tls(guarded: int, certificate: Certificate) -> None:
    with contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(4):
            connection = stack.enter_context(handshake(guarded, certificate))
            connection.sendall(GET)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            waiting.append(connection)
        while waiting[0].recv(4096):  # the one that has waited longest is closed, behind its answer
            pass


def test_serves_proxy_shows_a_renewed_certificate(guarded: int, certificate: Certificate, other: Certificate) -> None:
    assert shows(guarded, certificate)
    renew(certificate, by=other)
    wait_until(lambda: shows(guarded, other), "it still shows the old one")
    assert httpx.get(f"https://127.0.0.1:{guarded}", verify=trusting(other)).status_code == 200  # names no server


def test_serves_proxy_keeps_its_certificate_through_half_a_renewal(
    guarded: int, certificate: Certificate, other: Certificate, tmp_path: Path
) -> None:
    known = make_certificate(tmp_path, "known")
    known.chain.write_bytes(certificate.chain.read_bytes())
    with captured() as said:
        certificate.chain.write_bytes(other.chain.read_bytes())
        wait_until(lambda: "is not taken" in said.text, "nothing is said")
    assert shows(guarded, known)
    certificate.key.write_bytes(other.key.read_bytes())
    wait_until(lambda: shows(guarded, other), "it still shows the old one")
