"""Where the processes of a node write their log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

from monitoring import logs


class LogSettings(Protocol):
    """Those of `deployments.settings.Settings` that say it."""

    @property
    def log_level(self) -> logs.LogLevel: ...
    @property
    def log_format(self) -> logs.LogFormat: ...
    @property
    def log_file(self) -> Path | None: ...
    @property
    def log_text(self) -> bool: ...


def configure_logs(settings: LogSettings, **process: Any) -> None:
    """Let this process write its log as the settings say, with the fields `process` in every line.

    A node on which the file cannot be opened logs to standard output instead: no engine stays away for its log.
    """
    level, form, keep_text = settings.log_level, settings.log_format, settings.log_text
    try:
        logs.configure(level, form, settings.log_file, keep_text, **process)
    except OSError as error:
        logs.configure(level, form, None, keep_text, **process)
        logs.event("log_file.unusable", f"logging to standard output instead: {error}", level=logging.WARNING)
