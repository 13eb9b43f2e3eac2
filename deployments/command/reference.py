"""`docs/commands.md`, made from the parsers of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping

from deployments.command import admin_secret, drain
from deployments.command.declaration import Command
from monitoring import exporter, prometheus

_HEAD = """\
<!-- Made from the parsers of deployments/command/ by `make boards`; edit those. -->

# Commands

Each command with all of its options, as its `--help` has them.

| | |
| --- | --- |
"""

_BESIDE = """
## Programs beside it

`make monitor`, the exporter of a node, and what Kubernetes runs: before a pod is ended, and for the first key.
"""

_PLAIN = ("positional arguments", "options")
"""What argparse calls the groups that nobody has named."""


def reference(subjects: Mapping[str, Mapping[str, Command]]) -> str:
    """The whole document. subjects: of `starcoder`, each with its commands by name."""
    told: dict[str, str] = {}
    parts = [_HEAD, *(_contents(name, command) for commands in subjects.values() for name, command in commands.items())]
    for subject, commands in subjects.items():
        parts.append(f"\n## {_capitalized(subject)}\n")
        for command in commands.values():
            parts += _commands(command.module().parser(), told)
    parts.append(_BESIDE)
    for module in (prometheus, exporter, drain, admin_secret):
        parts += _commands(module.parser(), told)
    return "".join(parts)


def _contents(name: str, command: Command) -> str:
    return f"| [{name}](#starcoder-{name}) | {command.help} |\n"


def _commands(parser: argparse.ArgumentParser, told: dict[str, str]) -> Iterator[str]:
    """A command, and its parts below it. told: what stands above already -> of which command."""
    yield f"\n### {parser.prog}\n\n{_flowing(parser.description)}\n"
    groups = {group: [one for one in group._group_actions if not _is_left_out(one)] for group in parser._action_groups}
    yield _table(parser, "", [one for group, found in groups.items() if group.title in _PLAIN for one in found])
    again: dict[str, list[str]] = {}
    for group, actions in groups.items():
        if group.title in _PLAIN or not actions:
            continue
        title = f"**{_capitalized(group.title)}**"
        table = _table(parser, f"{title}: {group.description}" if group.description else title, actions)
        if table in told:
            again.setdefault(told[table], []).append(title)
        else:
            told[table] = parser.prog
            yield table
    for prog, titles in again.items():
        yield f"\n{', '.join(titles)}: as of `{prog}`.\n"
    for either in parser._mutually_exclusive_groups:
        names = " and ".join(f"`{action.option_strings[0]}`" for action in either._group_actions)
        yield f"\nOf {names}, one {'is needed' if either.required else 'at most is given'}.\n"
    if parser.epilog and told.setdefault(parser.epilog, parser.prog) == parser.prog:
        yield f"\n{_flowing(parser.epilog)}\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from _commands(part, told)


def _table(parser: argparse.ArgumentParser, head: str, actions: Iterable[argparse.Action]) -> str:
    rows = "".join(_row(parser, action) for action in actions)
    return (f"\n{head}\n" if head else "") + (f"\n| | |\n| --- | --- |\n{rows}" if rows else "")


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    format = parser._get_formatter()
    if action.option_strings:
        metavar = format._get_default_metavar_for_optional(action)
        taken = "" if action.nargs == 0 else f" {format._format_args(action, metavar)}"
        name = ", ".join(f"{one}{taken}" for one in action.option_strings)
    else:
        name = format._format_args(action, format._get_default_metavar_for_positional(action))
    needed = " (needed)" if action.option_strings and action.required else ""
    said = _flowing(format._expand_help(action))
    return f"| `{name}`{needed} | {said} |\n"


def _is_left_out(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _capitalized(text: str | None) -> str:
    return (text or "")[:1].upper() + (text or "")[1:]


def _flowing(text: str | None) -> str:
    return " ".join((text or "").split())
