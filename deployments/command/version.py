"""`starcoder version`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from deployments.options import OptionParser


def parser() -> OptionParser:
    return OptionParser("starcoder version", "Print the version.")


def run(arguments: Sequence[str]) -> int:
    parser().parse_args(list(arguments))
    print(version("starcoder-serve"))
    return 0
