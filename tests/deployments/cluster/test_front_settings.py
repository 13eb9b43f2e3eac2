"""What HAProxy is told of the settings: read without what makes settings, and the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.cluster import front_settings, proxy_settings
from deployments.cluster.proxy_settings import ProxySettings
from deployments.settings import Settings

CERTIFICATE: dict[str, Any] = {"ssl_certfile": Path("/a.crt"), "ssl_keyfile": Path("/a.key")}


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(host="10.1.2.3", **CERTIFICATE),
        Settings(
            api={  # type: ignore[arg-type]
                "max_head_bytes": "8KiB",
                "head_timeout_s": 0.5,
                "body_timeout_s": 7,
                "keep_alive_timeout_s": 3,
                "write_timeout_s": 1e3,
                "max_connections": 77,
            }
        ),
    ],
)
def test_what_a_server_says_is_read_as_by_the_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = proxy_settings.variables(settings)
    said = front_settings.said(environment)
    assert said is not None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert said == ProxySettings().front
    assert (said.host, said.max_connections) == (settings.host, settings.api.max_connections)


@pytest.mark.parametrize(
    "otherwise",
    [
        {"STARCODER_API__MAX_HEAD_BYTES": "64KiB"},
        {"STARCODER_API__HEAD_TIMEOUT_S": "soon"},
        {"STARCODER_API__HEAD_TIMEOUT_S": "0"},
        {"STARCODER_API__WRITE_TIMEOUT_S": "nan"},
        {"STARCODER_API__MAX_CONNECTIONS": ""},
        {"STARCODER_SSL_CERTFILE": "/a.crt"},
        {"STARCODER_SSL_KEYFILE": "/a.key"},
        {"STARCODER_SSL_CERTFILE": "~/a.crt", "STARCODER_SSL_KEYFILE": "/a.key"},
        {"STARCODER_SSL_CERTFILE": "/a.crt", "STARCODER_SSL_KEYFILE": "a.key"},
    ],
)
def test_what_people_write_is_left_to_the_settings(otherwise: dict[str, str]) -> None:
    assert front_settings.said(proxy_settings.variables(Settings()) | otherwise) is None


@pytest.mark.parametrize("left_out", proxy_settings.VARIABLES[:6])
def test_each_limit_has_to_be_said(left_out: str) -> None:
    environment = proxy_settings.variables(Settings())
    del environment[left_out]
    assert front_settings.said(environment) is None


def test_an_empty_variable_says_nothing() -> None:
    environment = proxy_settings.variables(Settings(host="10.1.2.3", **CERTIFICATE))
    empty = dict.fromkeys(("STARCODER_HOST", "STARCODER_SSL_CERTFILE", "STARCODER_SSL_KEYFILE"), "")
    said = front_settings.said(environment | empty)
    assert said is not None
    assert (said.host, said.chain, said.key) == (None, None, None)
