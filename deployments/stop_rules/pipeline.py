"""All rules of one completion together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from deployments.protocol import SUFFIX_CHARACTERS, EndedBy, StopRules
from deployments.stop_rules.brackets import BracketBlock
from deployments.stop_rules.confidence import Confidence
from deployments.stop_rules.indented import IndentedBlock
from deployments.stop_rules.line import LineEnd
from deployments.stop_rules.repetition import Repetition
from deployments.stop_rules.rule import Code, Place, Rule
from deployments.stop_rules.special import SpecialText
from deployments.stop_rules.suffix import SuffixBracket, SuffixOverlap

_PROSE = ("other", "markdown")
_CLOSING = ")]}>;,:\"'` \t"


class SpecialNames(Protocol):
    """What is needed of `model.text.tokenizer.Tokenizer`."""

    special: dict[str, int]


class RulePipeline:
    """Feeds a completion to its rules, and tells what of it is certain.

    Every rule sees every character until one of them ends the text; that moment depends on the text alone, never on
    the pieces in which it comes. What comes out is always a beginning of what went in.

    ended_by: the rule that ended the text, or cut its end.
    """

    def __init__(self, place: Place, rules: Sequence[Rule]) -> None:
        self.ended_by: EndedBy | None = None
        self.ended = False
        self._code = Code(place)
        self._rules = rules
        self._shown = 0

    def push(self, text: str, logprobs: Sequence[float] = ()) -> str:
        """More text, and the log-probabilities of the tokens that it comes from. Returns what is now certain."""
        if self.ended:
            return ""
        if not self._rules:
            return text
        self._code.logprobs += logprobs
        for char in text:
            self._code.push(char)
            cuts = {rule: end for rule in self._rules if (end := rule.push(self._code)) is not None}
            if cuts:
                return self._end(cuts)
        return self._show(min(rule.safe for rule in self._rules))

    def flush(self) -> str:
        """The text has ended for another reason: what was held back, as far as it is to be shown."""
        return "" if self.ended else self._end({})

    def _end(self, cuts: dict[Rule, int]) -> str:
        """The rules that have not ended it look at its end as well; the shortest text counts."""
        self.ended = True
        others = [rule for rule in self._rules if rule not in cuts]
        cuts |= {rule: end for rule in others if (end := rule.flush(self._code)) is not None}
        if not cuts:
            return self._show(len(self._code.text))
        rule = min(cuts, key=lambda rule: cuts[rule])
        self.ended_by = rule.name
        return self._show(cuts[rule])

    def _show(self, end: int) -> str:
        text = self._code.text[self._shown : end]
        self._shown = max(self._shown, end)
        return text


def build_pipeline(rules: StopRules, prompt: int, tokenizer: SpecialNames) -> RulePipeline:
    """The rules that a request asks for, for a completion of its prompt number `prompt`."""
    suffix = rules.suffixes[prompt]
    place = _place(rules.language, rules.prefixes[prompt], suffix, len(suffix) == SUFFIX_CHARACTERS)
    chosen: list[Rule] = []
    if rules.mode != "raw":
        chosen.append(_mode(rules, place))
    if rules.trim_suffix and suffix.strip():
        chosen.append(SuffixOverlap(place))
        if rules.language not in _PROSE:
            chosen.append(SuffixBracket(place))
    if rules.stop_repetition:
        chosen.append(Repetition(place))
    if rules.special_ids:
        chosen.append(SpecialText(list(tokenizer.special)))
    if rules.min_logprob is not None:
        chosen.append(Confidence(rules.min_logprob))
    return RulePipeline(place, chosen)


_place = lru_cache(maxsize=16)(Place.of)
"""The completions of one prompt share it."""


def _mode(rules: StopRules, place: Place) -> Rule:
    """`auto`: the line, where text follows in it; at an empty line, the block; else the statement.

    `block` takes the rest of the block instead of the statement, unless the cursor's line opens a block itself.
    """
    # A suffix of one line is an example by hand, which leaves the line break out: an editor sends the rest of a file.
    text_follows = "\n" in place.suffix and bool(place.tail.strip(_CLOSING))
    if rules.mode == "line" or (rules.mode == "auto" and (text_follows or place.here.in_comment)):
        return LineEnd(place)
    opens = place.here.code.rstrip().endswith((":", "{", "(", "[", " do", " then"))
    siblings = place.blank or (rules.mode == "block" and not opens)
    if place.language.blocks == "brackets":
        return BracketBlock(place, siblings)
    return IndentedBlock(place, siblings)
