"""What `starcoder serve` looks at before it starts anything: this machine's files and ports, and no cluster's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from deployments.command import checks
from deployments.command.console import Console
from deployments.settings import Settings
from model.config import ConfigError


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []

    def opened(path: Path) -> Any:
        return Mock(close=lambda: found.append(("index", path)))

    monkeypatch.setattr(checks, "check_model", lambda settings, console: found.append((settings.model, console)))
    monkeypatch.setattr(checks, "check_port", lambda host, port: found.append((host, port)))
    monkeypatch.setattr(checks.Index, "open", opened)
    return found


def test_each_file_and_port_is_looked_at(looked_at: list[object], tmp_path: Path) -> None:
    console = Mock(Console)
    settings = Settings(host="::1", port=8123, metrics_port=9464, attribution={"index": tmp_path})
    checks.check(settings, console, local=True)
    assert looked_at == [(settings.model, console), ("index", tmp_path), ("::1", 8123), ("::1", 9464)]
    looked_at.clear()
    checks.check(Settings(metrics_port=None), console, local=True)
    assert looked_at == [(settings.model, console), (Settings().host, Settings().port)]


def test_a_certificate_that_is_none_is_said_before_the_model_is_fetched(
    looked_at: list[object], tmp_path: Path
) -> None:
    settings = Settings(ssl_certfile=tmp_path / "a.crt", ssl_keyfile=tmp_path / "a.key")
    with pytest.raises(ConfigError):
        checks.check(settings, Mock(Console), local=True)
    assert looked_at == []


def test_of_a_cluster_nothing_can_be_known_here(looked_at: list[object]) -> None:
    checks.check(Settings(), Mock(Console), local=False)
    assert looked_at == []
