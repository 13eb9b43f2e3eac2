"""What is left, as OpenAI's API says it."""

from __future__ import annotations

import pytest

from deployments.teams.counting import Allowance, Grant
from deployments.teams.rate_limit_headers import duration, headers_of


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9981, "999ms"),
        (0.9991, "1s"),
        (1.0, "1s"),
        (1.0001, "2s"),
        (59.0, "59s"),
        (59.5, "1m0s"),
        (60.0, "1m0s"),
        (360.0, "6m0s"),
        (3599.0, "59m59s"),
        (3599.001, "1h0m0s"),
        (3600.0, "1h0m0s"),
        (7384.0, "2h3m4s"),
    ],
)
def test_a_duration_is_never_less_than_it_is(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_has_no_limit_is_not_told() -> None:
    requests, tokens = Allowance(limit=60, remaining=59, reset_s=1.0), Allowance(limit=900, remaining=0, reset_s=90.0)
    of_requests = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }
    of_tokens = {
        "x-ratelimit-limit-tokens": "900",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }
    assert headers_of(Grant()) == {}
    assert headers_of(Grant(requests=requests)) == of_requests
    assert headers_of(Grant(tokens=tokens)) == of_tokens
    assert headers_of(Grant(requests=requests, tokens=tokens)) == of_requests | of_tokens
