"""Where a node's processes write their log, and that none of them stays away for it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from deployments.cluster.node_logs import configure_logs
from deployments.settings import Settings
from monitoring import logs
from tests.support.log_lines import captured

FILE = Path("/there/log")


@pytest.mark.parametrize("usable", [True, False])
def test_a_process_logs_as_the_settings_say(usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[Any] = []

    def configure(*settings: object, **process: object) -> None:
        configured.append((*settings, process))
        if settings[2] is not None and not usable:
            raise OSError(errno.ENOENT, "No such directory")

    with captured() as lines:
        monkeypatch.setattr(logs, "configure", configure)
        settings = Settings(log_level="debug", log_format="text", log_file=FILE, log_text=True)
        configure_logs(settings, process="engine", replica="r")
        monkeypatch.undo()
        said = [(line["level"], line["message"]) for line in lines.all("log_file.unusable")]
    who = {"process": "engine", "replica": "r"}
    tried = [("debug", "text", FILE, True, who), ("debug", "text", None, True, who)]
    assert configured == (tried[:1] if usable else tried)
    problem = "logging to standard output instead: [Errno 2] No such directory"
    assert said == ([] if usable else [("warning", problem)])
