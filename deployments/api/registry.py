"""All dialects: every module of this package that has a `DIALECT`; what has a `create_router` is mounted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

from deployments import api as package
from deployments.api.common.dialect import Dialect
from deployments.discovery import modules_below


def dialects() -> Mapping[str, Dialect]:
    """By name, in order of their names. Raises ValueError where two have one name."""
    declared = (module.DIALECT for module in modules_below(package) if hasattr(module, "DIALECT"))
    found: dict[str, Dialect] = {}
    for dialect in sorted(declared, key=lambda dialect: dialect.name):
        if found.setdefault(dialect.name, dialect) is not dialect:
            raise ValueError(f"two dialects are called {dialect.name!r}")
    return found


def dialect_modules() -> Iterator[ModuleType]:
    """Every module that has a `create_router`, by name."""
    return (module for module in modules_below(package) if hasattr(module, "create_router"))
