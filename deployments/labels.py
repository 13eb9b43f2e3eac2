"""The values of metric labels that dialects and stop rules declare."""

from __future__ import annotations

from deployments.api.registry import dialects
from deployments.stop_rules.registry import stop_rules
from monitoring.labels import DeclaredLabels


def declared_labels() -> DeclaredLabels:
    """All of them; loads every dialect."""
    return DeclaredLabels(apis=tuple(dialects()), rules=tuple(stop_rules()))
