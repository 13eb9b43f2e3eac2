"""How a command of administrators runs: its parts have parsers of their own, each with what it does."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from deployments.command.teams.office import Office, add_options, opened
from deployments.options import OptionParser, positive

Act = Callable[[Office, argparse.Namespace], Awaitable[int]]
"""Raises OfficeError and ConfigError; the exit code."""


def part(
    parts: argparse._SubParsersAction[OptionParser], name: str, act: Act, help: str, makes: bool = False
) -> OptionParser:
    """One part of a command, such as `teams create`. makes: it may be the first thing that is ever made."""
    parser = parts.add_parser(name, help=help, description=f"{help[:1].upper()}{help[1:]}.")
    return acting(parser, act, makes)


def acting(parser: OptionParser, act: Act, makes: bool = False) -> OptionParser:
    add_options(parser)
    parser.set_defaults(act=act, makes=makes)
    return parser


def run(parser: OptionParser, arguments: Sequence[str]) -> int:
    """Raises OfficeError and ConfigError."""
    options = parser.parse_args(list(arguments))

    async def go() -> int:
        async with opened(options, options.makes) as office:
            return await options.act(office, options)

    return asyncio.run(go())


def say(text: str) -> None:
    """Words, which no program reads."""
    print(text, file=sys.stderr)


def day(at: int | None, otherwise: str = "never") -> str:
    """Unix seconds for people."""
    return otherwise if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def limit(text: str) -> int | None:
    """A limit, or `none`."""
    return None if text == "none" else positive(text)
