"""Money, exactly: whole picodollars (10^-12 USD). 0.000315 USD for 1,000 tokens is 315,000 a token."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation

PER_DOLLAR = 10**12
_TOKENS_OF_A_PRICE = 1000
_EXACTLY = Context(prec=100)  # Python's own rounds to 28 digits


def picodollars(dollars: str | Decimal) -> int:
    """Raises ValueError for what is no amount, or no whole number of picodollars."""
    return _whole(dollars, PER_DOLLAR, "picodollars")


def price_a_token(dollars_a_thousand: str | Decimal) -> int:
    """From USD for 1,000 tokens to picodollars a token. Raises ValueError where that is not whole."""
    return _whole(dollars_a_thousand, PER_DOLLAR // _TOKENS_OF_A_PRICE, "picodollars a token")


def dollars(amount: int) -> Decimal:
    """Picodollars as USD, exactly."""
    return Decimal(amount).scaleb(-12, _EXACTLY)


def shown(amount: int, places: int = 2) -> str:
    """Picodollars as USD for people: so many places, more where it is less than one of them."""
    value = dollars(amount)
    if value and abs(value) < Decimal(1).scaleb(-places):
        return f"{value.normalize():f}"
    return f"{value:.{places}f}"


def _whole(value: str | Decimal, scale: int, unit: str) -> int:
    try:
        amount = Decimal(value) if isinstance(value, str) else value
    except InvalidOperation:
        raise ValueError(f"{value!r} is no amount of USD") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{value} is no amount of USD")
    _, digits, exponent = amount.as_tuple()
    if len(digits) + abs(int(exponent)) > 60:
        raise ValueError(f"{value} USD has too many digits")
    scaled = _EXACTLY.multiply(amount, Decimal(scale))
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{value} USD is no whole number of {unit}")
    return int(scaled)
