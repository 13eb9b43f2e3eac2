"""A second server, which is asked the same."""

from __future__ import annotations

import argparse
import copy


def add_second_server_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a second server, compared in pairs with the same seeds")
    group.add_argument("--compare", metavar="URL")
    group.add_argument("--compare-model", metavar="MODEL")
    group.add_argument("--compare-api-key", metavar="KEY")


def second_server(options: argparse.Namespace) -> argparse.Namespace:
    """The options as they would be with that server alone."""
    second = copy.copy(options)
    second.url, second.served_model, second.api_key = options.compare, options.compare_model, options.compare_api_key
    return second
