"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.sizes import shown, size


@pytest.mark.parametrize(
    ("written", "bytes"),
    [
        ("24GiB", 24 << 30),
        ("24Gi", 24 << 30),
        ("24 gib", 24 << 30),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
        ("80GB", 80_000_000_000),
        ("17B", 17),
        ("134217728", 128 << 20),
        (134217728, 128 << 20),
        ("2e10", 20_000_000_000),
        (2e10, 20_000_000_000),
    ],
)
def test_a_size(written: str | float, bytes: int) -> None:
    assert size(written) == bytes


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("24", "'24' may mean two sizes: write 24GiB or 24GB"),
        (1.5, "1.5 may mean two sizes: write 1.5GiB or 1.5GB"),
        ("512M", "'512M' may mean two sizes: write 512MiB or 512MB"),
        ("24GiBs", "'24GiBs' is no size such as 24GiB or 1.5GB"),
        ("12Gbit", "'12Gbit' is no size such as"),
        ("-1GB", "'-1GB' is no size such as"),
        ("", "'' is no size such as"),
        ("1e999GB", "is no size such as"),
        ("٣GB", "is no size such as"),
        ("1e99", "'1e99' is a size that no machine has"),
        ("1025PiB", "'1025PiB' is a size that no machine has"),
        (1e300, "is no size such as"),
        ("9" * 5000, "is a size that no machine has"),
    ],
)
def test_what_is_none_or_could_be_two(written: str | float, message: str) -> None:
    with pytest.raises(ValueError, match="size") as error:
        size(written)
    assert message in str(error.value)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_what_is_shown_is_read_again(bytes: int) -> None:
    assert size(shown(bytes)) == bytes
