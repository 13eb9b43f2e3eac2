"""What is forgotten where there is no room for all."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.replica.remembered import Remembered

uses = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60)


@given(uses, st.integers(1, 12))
def test_whoever_has_most_loses_what_it_used_longest_ago(used: list[tuple[str, int]], capacity: int) -> None:
    remembered: Remembered[int] = Remembered(capacity)
    model: list[tuple[str, int]] = []
    for number, (tenant, key) in enumerate(used):
        remembered.use(tenant, key, number)
        model = [one for one in model if one != (tenant, key)] + [(tenant, key)]
        gone = [one for one in model if remembered.get(*one) is None]
        if len(model) > capacity:
            (lost,) = gone
            counts = Counter(name for name, _ in model)
            assert counts[lost[0]] == max(counts.values())
            assert lost == next(one for one in model if one[0] == lost[0])
            model.remove(lost)
        else:
            assert not gone
        assert remembered.get(tenant, key) == number
        assert remembered.oldest() == (*model[0], remembered.get(*model[0]))
        assert len(remembered) == len(model) <= capacity
    for tenant, key in model:
        remembered.forget(tenant, key)
    assert remembered.oldest() is None
    assert not remembered._keys


@given(st.integers(1, 20), st.integers(0, 100))
def test_of_one_tenant_the_least_recently_used_goes(capacity: int, many: int) -> None:
    remembered: Remembered[int] = Remembered(capacity)
    for key in range(many):
        remembered.use("", key, key)
    assert [key for key in range(many) if remembered.get("", key) is not None] == list(range(many))[-capacity:]
