"""What Ray Serve says of its applications, in the one line that people need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatus

from deployments.app import APP_NAME
from deployments.command.serve_says import failure, has_application, serve_runs


def application(status: str, message: str = "", **deployments: str) -> Any:
    said = {name: SimpleNamespace(message=of_it) for name, of_it in deployments.items()}
    return SimpleNamespace(status=ApplicationStatus(status), message=message, deployments=said)


TRACEBACK = "Traceback (most recent call last):\n  File x\nmodel.config.ConfigError: no such model: a: b\nand so on"
RETRIED = f"A replica failed to start with exception. Retrying 1 more time(s). Error:\n{TRACEBACK}"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (application("DEPLOY_FAILED", TRACEBACK, engine="Serve is unhappy"), "no such model: a: b"),
        (application("UNHEALTHY", "Serve is unhappy", engine="", ingress=TRACEBACK), "no such model: a: b"),
        (application("DEPLOY_FAILED", f"ConfigError: an older one\n{TRACEBACK}"), "no such model: a: b"),
        (application("DEPLOY_FAILED", "one", engine="", ingress="other"), "one\nother"),
        (application("UNHEALTHY", engine="other"), "other"),
        (application("DEPLOY_FAILED"), ""),
        (application("DEPLOYING", engine=RETRIED, ingress=""), "no such model: a: b"),
        (application("DEPLOYING", engine="A replica failed to start. Error:\nOSError: the disk is away"), None),
        (application("DEPLOYING", engine="", ingress=""), None),
        (application("RUNNING"), None),
    ],
)
def test_a_refusal_is_known_before_serve_tries_again_and_told_in_its_own_line(said: Any, why: str | None) -> None:
    assert failure(said) == why


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
