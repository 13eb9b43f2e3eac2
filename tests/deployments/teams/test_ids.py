"""Ids of ledger entries, as RFC 9562 (5.7) has them."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams import ids
from deployments.teams.ids import uuid7


@given(st.floats(0, (2**48 - 1) / 1000), st.sampled_from([0, (1 << 80) - 1]))
def test_it_is_of_version_7_and_begins_with_the_milliseconds(now: float, random: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids.secrets, "randbits", lambda bits: random & ((1 << bits) - 1))
        made = uuid.UUID(uuid7(now))
    assert made.int >> 80 == int(now * 1000)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    rest = made.int & ~(0xF << 76) & ~(0x3 << 62) & ((1 << 80) - 1)
    assert rest == random & ~(0xF << 76) & ~(0x3 << 62), "what is left of 80 bits is drawn"


def test_those_of_one_moment_differ_and_later_ones_follow() -> None:
    made = [uuid7(1_800_000_000.0) for _ in range(100)]
    assert len(set(made)) == 100
    assert max(made) < uuid7(1_800_000_000.001)
    before = int(time.time() * 1000)
    assert before <= uuid.UUID(uuid7()).int >> 80 <= int(time.time() * 1000)
