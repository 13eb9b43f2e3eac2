"""What browsers keep while their people are at the identity provider."""

from __future__ import annotations

import pytest

from deployments.teams.attempts import Attempts
from deployments.teams.exchanges import ATTEMPT_S
from deployments.teams.keys import Pepper
from deployments.teams.seal import Seal
from deployments.teams.sign_in import Attempt
from tests.support.stores import PEPPER, Clock

ATTEMPT = Attempt(state="s", nonce="n", verifier="v", target="/teams")


async def test_it_comes_back_as_it_was_given_for_ten_minutes() -> None:
    clock = Clock()
    attempts = Attempts(Seal(lambda: PEPPER), clock)
    kept = await attempts.write(ATTEMPT)
    clock.now += ATTEMPT_S - 1
    assert await attempts.read(kept) == ATTEMPT
    clock.now += 1
    assert await attempts.read(kept) is None


@pytest.mark.parametrize("made_up", ["", ".", "x", "x.y", "e30=.", "é.ü", "x" * 5000])
async def test_what_others_made_is_none(made_up: str) -> None:
    assert await Attempts(Seal(lambda: PEPPER)).read(made_up) is None


async def test_one_that_was_changed_or_has_the_mark_of_something_else_is_none() -> None:
    seal = Seal(lambda: PEPPER)
    attempts, elsewhere = Attempts(seal), Attempts(Seal(lambda: Pepper(b"another pepper of 32 characters.")))
    text, _, mark = (await attempts.write(ATTEMPT)).partition(".")
    longer, _, _ = (await attempts.write(Attempt(state="other", nonce="n", verifier="v", target="/"))).partition(".")
    others_mark = await seal.mark("session", text)
    assert await attempts.read(f"{text}.{mark}") == ATTEMPT
    for kept in (f"{longer}.{mark}", f"{text}.{others_mark}", await elsewhere.write(ATTEMPT)):
        assert await attempts.read(kept) is None
