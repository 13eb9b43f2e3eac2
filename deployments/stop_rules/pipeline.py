"""All rules of one completion together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from deployments.protocol import SUFFIX_CHARACTERS, StopRules
from deployments.stop_rules.registry import stop_rules
from deployments.stop_rules.rule import Asked
from deployments.stop_rules.watcher import Code, Place, Watcher


class SpecialNames(Protocol):
    """What is needed of `model.text.tokenizer.Tokenizer`."""

    special: dict[str, int]


class RulePipeline:
    """Feeds a completion to what watches it, and tells what of it is certain.

    Every watcher sees every character until one of them ends the text; that moment depends on the text alone, never on
    the pieces in which it comes. What comes out is always a beginning of what went in.

    watchers: with the names of their rules. ended_by: the rule that ended the text, or cut its end.
    """

    def __init__(self, place: Place, watchers: Mapping[Watcher, str]) -> None:
        self.ended_by: str | None = None
        self.ended = False
        self._code = Code(place)
        self._watchers = watchers
        self._shown = 0

    def push(self, text: str, logprobs: Sequence[float] = ()) -> str:
        """More text, and the log-probabilities of the tokens that it comes from. Returns what is now certain."""
        if self.ended:
            return ""
        if not self._watchers:
            return text
        self._code.logprobs += logprobs
        for char in text:
            self._code.push(char)
            cuts = {watcher: end for watcher in self._watchers if (end := watcher.push(self._code)) is not None}
            if cuts:
                return self._end(cuts)
        return self._show(min(watcher.safe for watcher in self._watchers))

    def flush(self) -> str:
        """The text has ended for another reason: what was held back, as far as it is to be shown."""
        return "" if self.ended else self._end({})

    def _end(self, cuts: dict[Watcher, int]) -> str:
        """The watchers that have not ended it look at its end as well; the shortest text counts."""
        self.ended = True
        others = [watcher for watcher in self._watchers if watcher not in cuts]
        cuts |= {watcher: end for watcher in others if (end := watcher.flush(self._code)) is not None}
        if not cuts:
            return self._show(len(self._code.text))
        first = min(cuts, key=lambda watcher: cuts[watcher])
        self.ended_by = self._watchers[first]
        return self._show(cuts[first])

    def _show(self, end: int) -> str:
        text = self._code.text[self._shown : end]
        self._shown = max(self._shown, end)
        return text


def build_pipeline(rules: StopRules, prompt: int, tokenizer: SpecialNames) -> RulePipeline:
    """The rules that a request asks for, for a completion of its prompt number `prompt`."""
    suffix = rules.suffixes[prompt]
    place = _place(rules.language, rules.prefixes[prompt], suffix, len(suffix) == SUFFIX_CHARACTERS)
    watchers: dict[Watcher, str] = {}
    for rule in stop_rules().values():
        if rule.of_mode or rule.name in rules.settings:
            setting = rules.settings.get(rule.name, True)
            asked = Asked(setting, rules.mode, rules.language, place, list(tokenizer.special))
            watchers |= dict.fromkeys(rule.watch(asked), rule.name)
    return RulePipeline(place, watchers)


_place = lru_cache(maxsize=16)(Place.of)
"""The completions of one prompt share it."""
