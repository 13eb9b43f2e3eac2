"""All stop rules: every module of this package that has a `RULE`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from deployments import stop_rules as package
from deployments.discovery import modules_below
from deployments.stop_rules.rule import StopRule


@cache
def stop_rules() -> Mapping[str, StopRule]:
    """By name, in their order. Raises ValueError where two have one name."""
    found: dict[str, StopRule] = {}
    declared = (module.RULE for module in modules_below(package) if hasattr(module, "RULE"))
    for rule in sorted(declared, key=lambda rule: (rule.order, rule.name)):
        if rule.name in found:
            raise ValueError(f"two stop rules are called {rule.name!r}")
        found[rule.name] = rule
    return found
