"""`starcoder serve` that rolls out its application anew, with another setting, for each SIGUSR1; the same options.

What `serve deploy` of a changed file does on a cluster that is not its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

from deployments.command.local import serve_forever
from deployments.settings import Settings

if TYPE_CHECKING:
    from ray import serve


class Releases:
    """Of one application."""

    def __init__(self) -> None:
        self._newest: Settings | None = None

    def first(self, settings: Settings) -> serve.Application:
        self._newest = settings
        return self._application(settings)

    def next(self) -> None:
        """Begin to replace every engine and every ingress. Nothing happens before there is a first one."""
        if self._newest is None:
            return
        from ray import serve

        from deployments.app import APP_NAME

        self._newest = self._newest.model_copy(update={"max_queued_requests": self._newest.max_queued_requests + 1})
        target = serve.RunTarget(self._application(self._newest), name=APP_NAME)
        serve.run_many([target], wait_for_applications_running=False)

    @staticmethod
    def _application(settings: Settings) -> serve.Application:
        # Ray reads the environment when it is imported, which the command sets first.
        from deployments.app import build

        return build(settings)


def main() -> int:
    settings, releases = Settings.from_command_line(sys.argv[1:]), Releases()
    # in a thread, for a handler would hold up the one that ends the server
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=releases.next, daemon=True).start())
    return serve_forever(settings, releases.first)


if __name__ == "__main__":
    sys.exit(main())
