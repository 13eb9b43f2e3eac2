"""Which front stands before a server, and what Ray is told for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from deployments.cluster import haproxy, proxy, proxy_settings
from deployments.command import cli, front
from deployments.settings import Settings
from model.config import ConfigError


@pytest.fixture(params=["installed", "missing"])
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    command = "/there/starcoder-haproxy" if request.param == "installed" else None
    monkeypatch.setattr(haproxy, "installed", lambda: command)
    return command


def test_haproxy_stands_in_front_where_it_is_installed(command: str | None, tmp_path: Path) -> None:
    said = front.local_front(Settings(), tmp_path)
    if command is None:
        assert said is None
    else:
        assert said is not None
        assert (said[haproxy.ENABLE], said["RAY_SERVE_HAPROXY_BINARY_PATH"]) == ("1", command)
        # Two servers of one machine share neither files nor ports.
        paths = [value for name, value in said.items() if value.startswith("/") and not name.endswith("BINARY_PATH")]
        assert len(paths) == 5
        assert all(Path(path).is_relative_to(tmp_path) for path in paths)
        assert said["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] not in ("8500", "")


def test_serves_own_proxy_is_the_way_out(command: str | None, tmp_path: Path) -> None:
    assert front.local_front(Settings(proxy="python"), tmp_path) is None


def test_haproxy_that_is_wanted_must_be_there(command: str | None, tmp_path: Path) -> None:
    if command is None:
        with pytest.raises(ConfigError, match="not installed"):
            front.local_front(Settings(proxy="haproxy"), tmp_path)
    else:
        assert front.local_front(Settings(proxy="haproxy"), tmp_path)


def test_one_of_the_two_has_the_certificate(command: str | None) -> None:
    """Ingress processes take Serve's options: HAProxy speaks plain HTTP to them."""
    settings = Settings(ssl_certfile=Path("/a.crt"), ssl_keyfile=Path("/a.key"))
    given = proxy_settings.variables(settings)
    assert (given["STARCODER_SSL_CERTFILE"], given["STARCODER_SSL_KEYFILE"]) == ("/a.crt", "/a.key")
    plain = {"host": settings.host, "port": settings.port}
    assert front.http_options(settings, behind_haproxy=True) == plain
    both = {"ssl_certfile": "/a.crt", "ssl_keyfile": "/a.key"}
    assert front.http_options(settings, behind_haproxy=False) == plain | both
    assert front.http_options(Settings(), behind_haproxy=False) == plain


def test_only_haproxy_listens_where_others_are(command: str | None) -> None:
    """An ingress process that they could ask, too, would speak to them without TLS."""
    settings = Settings(host="0.0.0.0")
    assert front.local_http_options(settings)["host"] == ("0.0.0.0" if command is None else "127.0.0.1")
    assert proxy_settings.variables(settings)["STARCODER_HOST"] == "0.0.0.0"
    secured = Settings(ssl_certfile=Path("/a.crt"), ssl_keyfile=Path("/a.key"))
    assert ("ssl_certfile" in front.local_http_options(secured)) == (command is None)


def test_the_paths_of_its_sockets_are_short_enough(command: str | None) -> None:
    """Ray puts the node's id before the file's name, HAProxy a number of seven digits and `.tmp` behind it."""
    private = Path("/tmp/starcoder-4194304-abcdefgh")
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        path = Path(haproxy.environment("x", directory=private)[name])
        assert len(str(path.parent / ("f" * 56) / path.name)) + len(".4194304.tmp") < 108
    assert len(str(private / ("f" * 56) / haproxy.LOG_SOCKET)) < 108


def test_the_command_prints_what_a_shell_takes(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["environment", "--served-model-name", "it's", "--api.max-connections", "17"]) == 0
    said = {}
    for line in capsys.readouterr().out.splitlines():
        export, assignment = shlex.split(line)
        assert export == "export"
        name, _, value = assignment.partition("=")
        said[name] = value
    assert said[haproxy.ENABLE] == str(int(command is not None))
    assert (said["STARCODER_SERVED_MODEL_NAME"], said["STARCODER_API__MAX_CONNECTIONS"]) == ("it's", "17")
    assert {name for name in said if name.startswith("STARCODER_")} <= set(proxy_settings.VARIABLES)


@pytest.mark.parametrize("metrics_port", [None, 0, 9464])
def test_ports_that_are_to_be_had_are_claimed_before_another_is_looked_for(
    metrics_port: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[object] = []
    monkeypatch.setattr(haproxy, "installed", lambda: "/there/haproxy")
    monkeypatch.setattr(front, "claim", lambda port: did.append(port) or True)
    monkeypatch.setattr(front, "free_port", lambda host: did.append(host) or 24_000)
    monkeypatch.setattr(haproxy, "environment", lambda command, **given: {"COMMAND": command} | given)
    said = front.local_front(Settings(port=8123, metrics_port=metrics_port), tmp_path)
    assert did == [8123, *([metrics_port] if metrics_port else []), "127.0.0.1"]
    assert said == {
        "COMMAND": "/there/haproxy",
        "directory": tmp_path,
        "fallback_port": 24_000,
        "metrics": metrics_port is not None,
    }


def test_a_proxy_that_is_chosen_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "installed", lambda: pytest.fail("nobody asks"))
    assert front.haproxy_command(Settings(proxy="python")) is None
    monkeypatch.setattr(haproxy, "installed", lambda: None)
    assert front.haproxy_command(Settings(proxy="auto")) is None
    with pytest.raises(ConfigError, match=r"^proxy=haproxy, but HAProxy is not installed here; proxy=python does"):
        front.haproxy_command(Settings(proxy="haproxy"))


def test_the_environment_is_of_the_front_that_there_is(
    command: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []

    def environment(settings: Settings, front: dict[str, str] | None) -> dict[str, str]:
        given.append((settings.port, front))
        return {"A": "two words", "B": "plain"}

    monkeypatch.setattr(proxy, "environment", environment)
    assert front.run(["--port", "8123"]) == 0
    assert given == [(8123, None if command is None else haproxy.environment(command))]
    assert capsys.readouterr().out == "export A='two words'\nexport B=plain\n"
