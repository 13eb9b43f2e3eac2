"""`starcoder prices`: what 1,000 tokens cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deployments.api.openai.organization.prices import PriceAnswer, PriceList
from deployments.command.tables import table
from deployments.command.teams.office import Body, Office
from deployments.command.teams.running import day, part, say
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def set_price(office: Office, options: argparse.Namespace) -> int:
    body: Body = {
        "model": options.model,
        "input_usd_per_1k": options.input,
        "output_usd_per_1k": options.output or options.input,
    }
    if options.cached is not None:
        body["cached_usd_per_1k"] = options.cached
    if options.start is not None:
        body["valid_from"] = options.start
    price = await office.post("/prices", body, PriceAnswer)
    say(f"1,000 tokens of {price.model} cost this from {day(price.valid_from)} on.")
    return 0


async def list_prices(office: Office, options: argparse.Namespace) -> int:
    prices = (await office.get("/prices", PriceList)).data
    rows = [
        [
            "(any other)" if price.model == "*" else price.model,
            price.input_usd_per_1k,
            price.cached_usd_per_1k,
            price.output_usd_per_1k,
            day(price.valid_from or None, "always"),
        ]
        for price in prices
    ]
    print(table(["model", "prompt", "cached", "generated", "valid from"], rows, numbers=range(1, 4)))
    return 0


def parser() -> OptionParser:
    whole = OptionParser("starcoder prices", "USD for 1,000 tokens.")
    parts = whole.parts()
    setting = part(parts, "set", set_price, "set a price; those before stay as they were", makes=True)
    setting.add_argument("model", help="as requests name it")
    setting.add_argument("--input", required=True, metavar="USD", help="for 1,000 prompt tokens")
    setting.add_argument("--cached", metavar="USD", help="for 1,000 prompt tokens found in the cache (as --input)")
    setting.add_argument("--output", metavar="USD", help="for 1,000 generated tokens (as --input)")
    setting.add_argument("--from", dest="start", metavar="DAY", help="from when on (now)")
    part(parts, "list", list_prices, "list prices")
    return whole
