"""`starcoder serve` with parts that can be broken; it takes the same options."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deployments.command.local import serve_forever
from deployments.settings import Settings

if TYPE_CHECKING:
    from ray import serve

ROUTER = "benchmarks.drill.stray_router.StrayRouter"


def build(settings: Settings) -> serve.Application:
    # Ray reads the environment when it is imported, which the command sets first.
    from benchmarks.drill.stubborn_drafts import StubbornEngine
    from deployments.app import application

    return application(settings, StubbornEngine, ROUTER)


if __name__ == "__main__":
    sys.exit(serve_forever(Settings.from_command_line(sys.argv[1:]), build))
