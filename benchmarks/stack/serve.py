"""`starcoder serve` before an engine that answers from a table; it takes the same options."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deployments.command.local import serve_forever
from deployments.settings import Settings

if TYPE_CHECKING:
    from ray import serve


def build(settings: Settings) -> serve.Application:
    # Ray reads the environment when it is imported, which the command sets first.
    from benchmarks.stack.replica import TableReplica
    from deployments.app import application

    return application(settings, TableReplica)


if __name__ == "__main__":
    sys.exit(serve_forever(Settings.from_command_line(sys.argv[1:]), build))
