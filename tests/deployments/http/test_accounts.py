"""What an ingress does with its accounts while there are none, and once there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from deployments.http import accounts as module
from deployments.http.accounts import Accounts
from deployments.team_settings import TeamsSettings
from deployments.teams.counting import BudgetUse
from deployments.teams.directory import Directory
from deployments.teams.drainer import Progress
from deployments.teams.keys import Pepper
from deployments.teams.opening import pepper
from deployments.teams.records import Accepted, Budget, Team
from deployments.teams.sign_on import Groups
from deployments.teams.store_errors import StoreUnavailableError
from monitoring import IngressMetrics
from tests.support.accounts import TEAM, FakeCounters, entry
from tests.support.waiting import eventually


class WatchedCounters(FakeCounters):
    """told: how often somebody asked for budgets."""

    told = 0

    async def budgets(self) -> list[BudgetUse]:
        self.told += 1
        return []


class Door(Directory):
    """Closed when a test says so. looks: how often somebody wanted to know."""

    is_closed = False
    looks = 0

    @property
    def closed(self) -> bool:
        self.looks += 1
        return self.is_closed


async def test_budgets_are_watched_once_a_key_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> None:
        return None

    monkeypatch.setattr(module, "BUDGETS_S", 0.001)
    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{tmp_path / 'none' / 'teams.sqlite'}")
    counters, door = WatchedCounters(), Door(nothing, lambda: Pepper(b"x" * 32))
    accounts = Accounts(settings, "m", counters, IngressMetrics("m"))
    accounts.directory = door
    watching = asyncio.create_task(accounts._watch_budgets())
    await eventually(lambda: door.looks > 5)
    assert counters.told == 0
    door.is_closed = True
    await eventually(lambda: counters.told)
    watching.cancel()
    await asyncio.wait([watching])


@pytest.mark.parametrize("settings", [{"required": True}, {"required_terms": "v1"}, {}])
async def test_whoever_wants_keys_or_terms_lets_nobody_in_before_there_is_a_key(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Who has no team could accept nothing."""
    database = f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}"
    accounts = Accounts(TeamsSettings(database=database, **settings), "m", FakeCounters(), IngressMetrics("m"))
    await accounts.start()
    try:
        assert accounts.directory.closed == bool(settings)
    finally:
        await accounts.stop()


async def test_what_somebody_took_comes_to_the_store(tmp_path: Path) -> None:
    told: list[Accepted] = []

    class Keeper:
        async def accepted(self, events: Sequence[Accepted]) -> None:
            told.extend(events)

    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}")
    accounts = Accounts(settings, "m", FakeCounters(), IngressMetrics("m"))
    taken = Accepted(team_id="t", key_id=None, model="m", dialect="tabby", at=7.0, lines=3)
    accounts.accepted(taken)
    await accounts._accepted.flush()
    assert told == [], "there is no store yet"
    accounts._store = Keeper()  # type: ignore[assignment]
    await accounts._accepted.flush()
    assert told == [taken]


@pytest.mark.parametrize(("deadline_s", "deadlines"), [(2.5, {"interactive": 2.5}), (0.0, {})])
def test_interactive_teams_have_a_deadline_where_one_is_set(
    tmp_path: Path, deadline_s: float, deadlines: dict[str, float]
) -> None:
    settings = TeamsSettings(
        database=f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}",
        interactive_deadline_s=deadline_s,
        required_terms="v1",
    )
    backend: Any = Accounts(settings, "m", FakeCounters(), IngressMetrics("m")).metered(below := Mock())
    assert (backend._deadlines, backend._terms, backend._model) == (deadlines, "v1", "m")
    assert backend._backend is below


async def test_what_is_booked_and_what_waits_is_counted(tmp_path: Path) -> None:
    usage, metrics = Mock(), SimpleNamespace(usage=Mock())
    metrics.usage = usage
    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}")
    accounts = Accounts(settings, "m", FakeCounters(), metrics)  # type: ignore[arg-type]
    owed = entry(1, prompt_tokens=10, completion_tokens=3, cost=5 * 10**11, kind="cancelled")
    accounts._used(TEAM, owed)
    accounts._progressed(Progress(booked=3, refused=1, waiting=2, oldest_s=0.5))
    assert usage.mock_calls == [
        call.used("red", "cancelled", 13, 0.5),
        call.booked(3),
        call.refused(1),
        call.waiting(2, 0.5),
    ]
    with pytest.raises(StoreUnavailableError, match="has not been reached yet"):
        await accounts._reached()
    assert accounts.administration() is None
    assert accounts.people is None


@pytest.mark.parametrize("secret", [b"hush", None])
def test_those_who_sign_in_do_so_as_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: bytes | None
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(secret or b"")
    file.chmod(0o600)
    settings = TeamsSettings(
        database=f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}",
        oidc_issuer="https://id.test",
        oidc_client_id="starcoder",
        oidc_client_secret_file=file if secret else None,
        oidc_scopes="openid roles",
        oidc_groups_claim="roles",
        oidc_admin_group="admins",
        oidc_team_groups="leads=search:owner",
        public_url="https://ide.test/",
        session_hours=2.5,
        max_staleness_s=77.0,
    )
    provider, sessions = Mock(), Mock()
    monkeypatch.setattr("deployments.teams.oidc.Provider", provider)
    monkeypatch.setattr(module, "Sessions", sessions)
    accounts = Accounts(settings, "m", FakeCounters(), IngressMetrics("m"))
    assert provider.mock_calls == [
        call(
            "https://id.test",
            "starcoder",
            secret and secret.decode(),
            "https://ide.test/login/callback",
            scopes="openid roles",
            groups_claim="roles",
        )
    ]
    (made,) = sessions.call_args_list
    assert (made.args[0], made.kwargs) == (accounts._reached, {"max_staleness_s": 77.0})
    assert made.args[1]() == pepper(settings), "there is one from now on"
    assert accounts.people is not None
    sign_on = accounts.people.sign_on
    assert (sign_on.provider, sign_on.sessions) == (provider.return_value, sessions.return_value)
    assert (sign_on.public_url, sign_on.lifetime_s) == ("https://ide.test", 2.5 * 3600)
    assert (sign_on._open_store, sign_on._groups) == (accounts._reached, Groups("admins", settings.group_roles))
    assert accounts.people._directory is accounts.directory


def test_how_far_budgets_are_used_is_the_larger_of_what_the_book_and_the_ledger_say() -> None:
    """Of this process's time the book tells; what was spent before is on the ledger."""

    def team(name: str, amount: int | None) -> Team:
        budget = None if amount is None else Budget(amount=amount)
        return Team(id=f"team_{name}", name=name, created_at=0, budget=budget)

    teams = [team("asked", 200), team("before", 200), team("never", 200), team("nothing", 0), team("free", None)]
    booked = {"team_asked": 50, "team_before": 150}
    directory = SimpleNamespace(
        teams=lambda: teams, spent=lambda id: SimpleNamespace(amount=booked[id]) if id in booked else None
    )
    uses = [
        BudgetUse(account=account, period_start=0, spent=spent, reserved=9, amount=200, hard=True)
        for account, spent in {"team:team_asked": 100, "key:team_before": 400, "team:team_free": 3}.items()
    ]
    shares = Accounts._shares(SimpleNamespace(directory=directory), uses)  # type: ignore[arg-type]
    assert shares == {"asked": 0.5, "before": 0.75, "never": 0.0}
