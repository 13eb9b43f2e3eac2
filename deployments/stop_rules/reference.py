"""`docs/stop-rules.md`, made from the declarations."""

from __future__ import annotations

from deployments.stop_rules.registry import stop_rules
from deployments.stop_rules.rule import StopRule

_HEAD = """\
<!-- Made from deployments/stop_rules/ by `make boards`; edit that. -->

# Stop rules

What ends a completion of code, apart from the model itself. An answer names the rule in `ended_by`, the log in its
field of that name, and `starcoder_stop_rule_ends_total` counts it. [api.md](api.md#completions-that-know-code) says
how to ask for them.

| rule | ends a completion | field | where the request leaves it open |
| --- | --- | --- | --- |
"""


def reference() -> str:
    """The whole document."""
    return _HEAD + "".join(map(_line, stop_rules().values()))


def _line(rule: StopRule) -> str:
    field = "" if rule.field is None else f"`{rule.field.name}`"
    return f"| `{rule.name}` | {rule.description} | {field} | {_left_open(rule)} |\n"


def _left_open(rule: StopRule) -> str:
    if rule.of_mode:
        return "`completion_mode` decides"
    return "on, unless `completion_mode` is `raw`" if rule.by_mode else "off"
