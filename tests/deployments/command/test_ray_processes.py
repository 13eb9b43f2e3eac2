"""What is taken from Ray is what Ray itself looks up when it starts."""

from __future__ import annotations

import inspect
from unittest.mock import Mock

import pytest

from deployments.command.ray_processes import keep_few


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services
    from ray._private.node import Node

    for holder, name in (
        (services, "start_api_server"),
        (Node, "start_monitor"),
    ):
        monkeypatch.setattr(holder, name, getattr(holder, name))  # so that it is put back
    keep_few()


@pytest.mark.usefixtures("few")
def test_ray_looks_up_what_is_left_out() -> None:
    from ray._private import node, services

    assert services.start_api_server(include_dashboard=False, raise_on_failure=False) == (None, None)
    assert node.Node.start_monitor(Mock()) is None
    started = inspect.getsource(node.Node.start_api_server)
    assert "self._webui_url, process_info = ray._private.services.start_api_server(" in started
    assert "if process_info is not None:" in started
    assert "self.start_monitor()" in inspect.getsource(node.Node.start_head_processes)
