"""What declares itself is found by looking: every module of a package, so that nobody keeps a list of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules_below(package: ModuleType) -> Iterator[ModuleType]:
    """Every module below a package, by name; raises what importing one of them raises."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    for name in sorted(module.name for module in found):
        yield importlib.import_module(name)
