"""Programs that are no Python packages: Prometheus, a browser, kubectl, Node.js.

A newcomer's laptop may lack them, and the tests that drive them are skipped there with the reason. Continuous
integration installs them (`.ci/run`), so there a missing one is a failure, not a gap that nobody sees.
"""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str = "") -> str:
    """The path of a program. Without it, skips the test, or fails it in continuous integration (CI is set)."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian package {package or name})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
