"""Money is exact or refused."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.money import PER_DOLLAR, dollars, picodollars, price_a_token, shown
from deployments.teams.records import Price


def test_the_published_price_is_exact() -> None:
    assert price_a_token("0.000315") == 315_000
    assert picodollars("1") == PER_DOLLAR
    assert picodollars(Decimal("0.01")) == 10**10


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1e-13", "0.0000000000001", "1e99", "1" * 70])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="USD"):
        picodollars(text)


def test_an_amount_may_have_sixty_digits() -> None:
    """Zeros before and behind its point are some of them."""
    assert picodollars("1" + 59 * "0") == 10**59 * PER_DOLLAR
    assert picodollars(Decimal("1e58")) == 10**58 * PER_DOLLAR
    for text in ("1" + 60 * "0", "1e60"):
        with pytest.raises(ValueError, match="too many digits"):
            picodollars(text)


def test_a_price_that_is_no_whole_number_a_token_is_refused() -> None:
    assert price_a_token("0.000000001") == 1
    with pytest.raises(ValueError, match="whole"):
        price_a_token("0.0000000015")


@given(st.integers(0, 10**30))
def test_there_and_back(amount: int) -> None:
    assert picodollars(dollars(amount)) == amount
    assert Fraction(dollars(amount)) == Fraction(amount, PER_DOLLAR)


def test_as_people_read_it() -> None:
    assert shown(0) == "0.00"
    assert shown(picodollars("12.345")) == "12.34"
    assert shown(picodollars("0.01")) == "0.01"
    assert shown(picodollars("0.015")) == "0.02"
    assert shown(picodollars("0.00999")) == "0.00999"
    assert shown(picodollars("0.000315")) == "0.000315"
    assert shown(picodollars("0.00015"), 4) == "0.0002"
    assert shown(picodollars("0.00005"), 4) == "0.00005"
    assert shown(picodollars("0.000000000001")) == "0.000000000001"


@given(*[st.integers(0, 10**6) for _ in range(6)])
def test_cost(fresh: int, cached: int, completion: int, input_: int, cached_price: int, output: int) -> None:
    price = Price(model="m", input=input_, cached=cached_price, output=output, valid_from=0.0)
    expected = fresh * input_ + cached * cached_price + completion * output
    assert price.cost(fresh + cached, cached, completion) == expected
