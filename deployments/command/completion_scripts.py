"""Scripts for shells that complete command lines of `starcoder`: one walk along the line in three languages.

A word that names a command or a part of one leads to its place; there its words, its options and the values of the
option before the cursor are offered.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_HELP_CHARACTERS = 72


class Option(NamedTuple):
    """names: of one option, all that it is called. values: the only ones that it takes, where there are such."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    files: bool


@dataclass
class Place:
    """path: the words that lead there. words: what may follow, and what each does. files: of what may follow."""

    path: tuple[str, ...]
    words: dict[str, str] = field(default_factory=dict)
    options: list[Option] = field(default_factory=list)
    files: bool = False

    @property
    def name(self) -> str:
        return " ".join(self.path)


def bash(places: Sequence[Place]) -> str:
    offers, values = [], []
    for place in places:
        words = [*place.words, *(name for option in place.options for name in option.names)]
        files = " files=yes" if place.files else ""
        offers.append(f"        {_quoted(place.name)}) words={_quoted(' '.join(words))}{files};;")
        for pattern, option in _with_values(place):
            answer = f"words={_quoted(' '.join(option.values))}; files={'yes' if option.files else ''}"
            values.append(f"        {pattern}) {answer};;")
    return f"""\
# bash completion of starcoder, made by `starcoder completion bash`
_starcoder() {{
    local at= word words= files= cur=${{COMP_WORDS[COMP_CWORD]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at $word" in {_steps(places)}) at="${{at:+$at }}$word";; esac
    done
    case "$at" in
{chr(10).join(offers)}
    esac
    case "$at ${{COMP_WORDS[COMP_CWORD-1]}}" in
{chr(10).join(values)}
    esac
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "${{words// /$IFS}}" -- "$cur"))
    [ -z "$files" ] || {{ compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")); }}
}}
complete -F _starcoder starcoder
"""


def zsh(places: Sequence[Place]) -> str:
    offers, values = [], []
    for place in places:
        described = [*place.words.items(), *((name, option.help) for option in place.options for name in option.names)]
        words = " ".join(_quoted(f"{name}:{_short(help)}") for name, help in described)
        files = " files=yes" if place.files else ""
        offers.append(f"        {_quoted(place.name)}) offers=({words}){files};;")
        for pattern, option in _with_values(place):
            answer = f"offers=({' '.join(option.values)}) files={'yes' if option.files else ''}"
            values.append(f"        {pattern}) {answer};;")
    return f"""\
#compdef starcoder
# made by `starcoder completion zsh`
_starcoder() {{
    local at= word= files= before=${{words[CURRENT-1]}}
    local -a offers line=("${{(@)words[2,CURRENT-1]}}")
    for word in "${{line[@]}}"; do
        case "$at $word" in {_steps(places)}) at="${{at:+$at }}$word";; esac
    done
    case "$at" in
{chr(10).join(offers)}
    esac
    case "$at $before" in
{chr(10).join(values)}
    esac
    (( ! $#offers )) || _describe starcoder offers
    [[ -z $files ]] || _files
}}
if [[ $funcstack[1] == _starcoder ]]; then _starcoder "$@"; else compdef _starcoder starcoder; fi
"""


def fish(places: Sequence[Place]) -> str:
    lines = []
    for place in places:
        start = f"complete -c starcoder -n {_fish(f'__starcoder_at {_fish(place.name)}')}"
        lines += [f"{start} -f -a {_fish(word)} -d {_fish(_short(help))}" for word, help in place.words.items()]
        for option in place.options:
            values = (
                f" -x -a {_fish(' '.join(option.values))}" if option.values else (" -r -F" if option.files else " -x")
            )
            tail = (values if option.takes_value else "") + f" -d {_fish(_short(option.help))}"
            lines += [f"{start} -l {name.removeprefix('--')}{tail}" for name in option.names]
    steps = " ".join(_fish(f"{place.name}") for place in places if place.path)
    with_files = " ".join(_fish(place.name) for place in places if place.files)
    elsewhere = _fish(f"not contains -- (__starcoder_place | string collect -a) {with_files}")
    return f"""\
# fish completion of starcoder, made by `starcoder completion fish`
function __starcoder_place
    set -l at
    for word in (commandline -opc)[2..-1]
        contains -- (string join -- ' ' $at $word) {steps}
        and set at $at $word
    end
    string join -- ' ' $at
end
function __starcoder_at
    test (__starcoder_place | string collect -a) = "$argv[1]"
end
complete -c starcoder -n {elsewhere} -f
{chr(10).join(lines)}
"""


def _with_values(place: Place) -> Iterable[tuple[str, Option]]:
    """A pattern for the word before the cursor, of each option that takes a value there."""
    for option in place.options:
        if option.takes_value:
            yield "|".join(_quoted(f"{place.name} {name}") for name in option.names), option


def _steps(places: Sequence[Place]) -> str:
    """A pattern for a place and the word that leads from it to another."""
    return "|".join(_quoted(f"{' '.join(place.path[:-1])} {place.path[-1]}") for place in places if place.path)


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(help: str) -> str:
    """The first sentence, or what fits of it."""
    sentence = re.split(r"(?<=[.;]) ", help, maxsplit=1)[0].rstrip(".;")
    return sentence if len(sentence) <= _HELP_CHARACTERS else sentence[: _HELP_CHARACTERS - 1] + "…"


SCRIPTS: dict[str, Callable[[Sequence[Place]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
