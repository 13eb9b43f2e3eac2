"""`starcoder attribution`: indexes of code, by which answers say whose code they repeat."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deployments.attribution.build import Built, build, forget
from deployments.attribution.opt_out import OptOut
from deployments.options import OptionParser

_TOLD_EVERY = 500
"""Files."""

_BUILDS = "Index the files of directories: UTF-8 texts of up to 256 KiB. The index holds their text, compressed."
_FORGETS = "Take files out of an index, with their text."
_OPT_OUT = "list of those who do not want to be in it: a file or directory a line, as answers call it; * is any text"


def parser() -> OptionParser:
    parser = OptionParser(
        "starcoder attribution",
        "Make indexes of code, by which answers say whose code they repeat.",
        epilog="Example: starcoder attribution build src/ --out index, then starcoder serve --attribution.index index",
    )
    parts = parser.parts()
    building = parts.add_parser("build", help="index the files of directories", description=_BUILDS)
    building.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="what to index, all below it")
    building.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        default=Path("attribution-index"),
        help="the new index (default: %(default)s)",
    )
    building.add_argument(
        "--licence",
        metavar="NAME",
        help="of all files; if not given, what each says itself (SPDX-License-Identifier), what its Python package "
        "states, or what the nearest licence file reads",
    )
    building.add_argument("--opt-out", metavar="PATH", type=Path, help=_OPT_OUT)
    building.set_defaults(act=_build)
    forgetting = parts.add_parser("forget", help="take files out of an index", description=_FORGETS)
    forgetting.add_argument("index", metavar="INDEX", type=Path, help="the index; servers that use it go on")
    forgetting.add_argument("--opt-out", metavar="PATH", type=Path, required=True, help=_OPT_OUT)
    forgetting.set_defaults(act=_forget)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Raises ConfigError."""
    options = parser().parse_args(list(arguments))
    code: int = options.act(options)
    return code


def _build(options: argparse.Namespace) -> int:
    built = build(options.directories, options.out, options.licence, OptOut.read(options.opt_out), _tell)
    _clear()
    left_out = f", {built.opted_out:,} left out since they opted out" if built.opted_out else ""
    unknown = f", {built.unknown_licences:,} of them without a known licence" if built.unknown_licences else ""
    print(f"{built.files:,} files{unknown}{left_out}; {built.characters:,} characters", file=sys.stderr)
    print(options.out)
    print(f"Use it: starcoder serve --attribution.index {options.out}", file=sys.stderr)
    return 0


def _forget(options: argparse.Namespace) -> int:
    print(f"{forget(options.index, OptOut.read(options.opt_out)):,} files are forgotten", file=sys.stderr)
    return 0


def _tell(built: Built) -> None:
    if built.files % _TOLD_EVERY == 0 and sys.stderr.isatty():
        print(f"\r{built.files:,} files", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
