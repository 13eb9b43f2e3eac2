"""The rule `block`: the completion ends where the block around the cursor closes, or the one that its line opens."""

from __future__ import annotations

from deployments.stop_rules.brackets import BracketBlock
from deployments.stop_rules.indented import IndentedBlock
from deployments.stop_rules.mode import ends_with_line, takes_siblings
from deployments.stop_rules.rule import Asked, StopRule, Trial
from deployments.stop_rules.watcher import Watcher


def _watch(asked: Asked) -> list[Watcher]:
    if asked.mode == "raw" or ends_with_line(asked):
        return []
    siblings = takes_siblings(asked)
    if asked.place.language.blocks == "brackets":
        return [BracketBlock(asked.place, siblings)]
    return [IndentedBlock(asked.place, siblings)]


RULE = StopRule(
    name="block",
    order=20,
    description="where the block around the cursor closes, or the one that its line opens; where nothing is opened, "
    "after the statement",
    word="ended with the block",
    of_mode=True,
    watch=_watch,
    trial=Trial(mode="auto"),
)
