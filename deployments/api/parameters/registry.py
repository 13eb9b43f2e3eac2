"""All sampling parameters: every `Parameter` in a module of this package."""

from __future__ import annotations

from functools import cache
from typing import Any

from deployments.api import parameters as package
from deployments.api.parameters.parameter import Parameter
from deployments.discovery import modules_below


@cache
def parameters() -> tuple[Parameter[Any], ...]:
    """By module, then as they stand there: a later one may change what an earlier one said.

    Raises ValueError where two have one name.
    """
    values = (value for module in modules_below(package) for value in vars(module).values())
    found = tuple(dict.fromkeys(value for value in values if isinstance(value, Parameter)))
    names = [parameter.name for parameter in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"declared twice: {', '.join(twice)}")
    return found
