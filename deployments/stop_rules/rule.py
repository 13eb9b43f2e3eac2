"""What a stop rule says of itself. A module of this package that has a `RULE` is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments.protocol import CompletionMode, Setting
from deployments.request_field import RequestField
from deployments.stop_rules.watcher import Place, Watcher


@dataclass(frozen=True)
class Asked:
    """What a request wants of one rule, and where.

    setting: what the rule's field says; True where it has none. special: names of the model's special tokens.
    """

    setting: Setting
    mode: CompletionMode
    language: str
    place: Place
    special: Sequence[str]


def _nothing(asked: Asked) -> Sequence[Watcher]:
    return ()


@dataclass(frozen=True)
class Trial:
    """How the benchmark tries a rule: by itself in `mode`, or beside all that `mode` turns on.

    name: of the set of rules that is tried; for a rule alone, its own. setting: where it is more than on.
    """

    name: str = ""
    mode: CompletionMode = "raw"
    alone: bool = True
    setting: Setting = True


@dataclass(frozen=True, eq=False)
class StopRule:
    """Everything that anybody lists of a rule.

    name: what clients are told in `ended_by`, and the value of the metric's label `rule`.
    order: of two rules that cut at one place, when the same character has come, the lower is named; lists have this
        order too.
    description: where it ends a completion, for the documentation. word: the same in the playground, in a few words.
    field: of request bodies, if it has one; left out of a body, its value is None.
    by_mode: on in every mode but `raw`, unless the field says otherwise.
    of_mode: the mode alone decides whether it applies.
    watch: what looks at the text; nothing where the rule does not apply to such a place, or ends it from outside.
    needs_logprobs: it reads the tokens' log-probabilities.
    finish_reason: what a completion is told that it ends from outside.
    trial: how the benchmark tries it, where it looks at the text.
    """

    name: str
    order: int
    description: str
    word: str
    field: RequestField[Any] | None = None
    by_mode: bool = False
    of_mode: bool = False
    watch: Callable[[Asked], Sequence[Watcher]] = _nothing
    needs_logprobs: bool = False
    finish_reason: Literal["stop", "length"] = "stop"
    trial: Trial = Trial()

    @property
    def watches(self) -> bool:
        """It looks at the text; other rules end a completion from outside."""
        return self.watch is not _nothing

    def setting(self, mode: CompletionMode, said: Setting | None) -> Setting | None:
        """What holds where a request says `said` of it, or nothing; None: it is off."""
        setting = self.by_mode and mode != "raw" if said is None else said
        return None if setting is False else setting
