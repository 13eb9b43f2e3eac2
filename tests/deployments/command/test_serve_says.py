"""What Ray Serve says of its applications, in the one line that people need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from deployments.app import APP_NAME
from deployments.command.serve_says import has_application, reason, serve_runs


def application(message: str = "", **deployments: str) -> Any:
    said = {name: SimpleNamespace(message=of_it) for name, of_it in deployments.items()}
    return SimpleNamespace(message=message, deployments=said)


TRACEBACK = "Traceback (most recent call last):\n  File x\nmodel.config.ConfigError: no such model: a: b\nand so on"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (application(TRACEBACK, engine="Serve is unhappy"), "no such model: a: b"),
        (application("Serve is unhappy", engine="", ingress=TRACEBACK), "no such model: a: b"),
        (application(f"ConfigError: an older one\n{TRACEBACK}"), "no such model: a: b"),
        (application("one", engine="", ingress="other"), "one\nother"),
        (application(), ""),
    ],
)
def test_the_reason_is_the_exceptions_own_line(said: Any, why: str) -> None:
    assert reason(said) == why


@pytest.mark.parametrize(("applications", "there"), [([], False), (["another"], False), (["another", APP_NAME], True)])
def test_our_application_is_told_from_others(
    applications: list[str], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=dict.fromkeys(applications)))
    assert has_application() is there


def test_serve_runs_where_it_has_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxies in ({}, {"node": "HEALTHY"}):
        monkeypatch.setattr(serve, "status", lambda proxies=proxies: SimpleNamespace(proxies=proxies))
        assert serve_runs() is bool(proxies)

    def no_cluster() -> Any:
        raise ConnectionError("there is no cluster")

    monkeypatch.setattr(serve, "status", no_cluster)
    assert serve_runs() is False
    with pytest.raises(ConnectionError):
        has_application()
