"""From what a request says of the stop rules to what the replica gets."""

from __future__ import annotations

from collections.abc import Mapping

from deployments.protocol import CompletionMode, Setting, StopRules
from deployments.stop_rules.registry import stop_rules


def settings(mode: CompletionMode, said: Mapping[str, Setting | None]) -> dict[str, Setting]:
    """Of the rules that are on. said: by rule, what a request says; None, or no entry: nothing."""
    found = {}
    for rule in stop_rules().values():
        if rule.watches and not rule.of_mode and (setting := rule.setting(mode, said.get(rule.name))) is not None:
            found[rule.name] = setting
    return found


def ask(
    mode: CompletionMode,
    wanted: dict[str, Setting],
    *,
    language: str,
    prefixes: tuple[str, ...],
    suffixes: tuple[str, ...],
) -> StopRules:
    """What ends completions. wanted: of the rules that are on. language: a key of `languages.LANGUAGES`.

    prefixes, suffixes: of each prompt, the text before and after the cursor.
    """
    return StopRules(
        mode=mode,
        language=language,
        prefixes=prefixes,
        suffixes=suffixes,
        settings=wanted,
        needs_logprobs=any(stop_rules()[name].needs_logprobs for name in wanted),
    )
