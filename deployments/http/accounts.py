"""Keys, limits and the ledger of one ingress process, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from deployments.errors import MeteringUnavailableError
from deployments.http.metering import MeteredBackend
from deployments.http.people import People
from deployments.protocol import Backend
from deployments.team_settings import TeamsSettings
from deployments.teams.accepted import AcceptedBuffer
from deployments.teams.administration import Administration, default_price
from deployments.teams.books import Books
from deployments.teams.counting import BudgetUse, Counters
from deployments.teams.directory import Directory
from deployments.teams.drainer import Drainer, Progress
from deployments.teams.journal import Journal
from deployments.teams.money import dollars
from deployments.teams.opening import journal_directory, open_store, pepper
from deployments.teams.private_file import read_or_make
from deployments.teams.records import Accepted, LedgerEntry, Team
from deployments.teams.sessions import Sessions
from deployments.teams.sign_on import Groups, SignOn
from deployments.teams.store_errors import StoreUnavailableError
from deployments.teams.unbooked import Unbooked
from monitoring import IngressMetrics

if TYPE_CHECKING:
    from deployments.teams.store import Store

STOP_S = 5.0
"""So long the end of the process waits for what is used to be booked; the rest stays in the journal."""

BUDGETS_S = 5.0


def people(settings: TeamsSettings, directory: Directory, reached: Callable[[], Awaitable[Store]]) -> People:
    """Those who sign in, as the settings say."""
    from deployments.teams.oidc import Provider  # a third of a second, which only servers with sign-on pay

    assert settings.oidc_issuer is not None
    assert settings.oidc_client_id is not None
    assert settings.public_url is not None
    public_url = settings.public_url.rstrip("/")
    file = settings.oidc_client_secret_file
    provider = Provider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        None if file is None else read_or_make(file.expanduser(), 1, make=False).decode(),
        f"{public_url}/login/callback",
        scopes=settings.oidc_scopes,
        groups_claim=settings.oidc_groups_claim,
    )
    staleness_s = settings.max_staleness_s
    sessions = Sessions(reached, lambda: pepper(settings, make=True), max_staleness_s=staleness_s)
    groups = Groups(settings.oidc_admin_group, settings.group_roles)
    return People(SignOn(provider, sessions, reached, groups, public_url, 3600 * settings.session_hours), directory)


class Accounts:
    """All that stands between a key and the engine's backend. While there is no key, it costs one look at a file.

    model: the served one. counters: of limits and budgets, shared by all ingresses where there are several. unbooked:
    hears what requests have cost, and what of that is booked.
    """

    def __init__(
        self,
        settings: TeamsSettings,
        model: str,
        counters: Counters,
        metrics: IngressMetrics,
        unbooked: Unbooked | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._counters = counters
        self._usage = metrics.usage
        self.directory = Directory(
            self._open,
            lambda: pepper(settings),
            required=settings.closed,
            refresh_s=settings.refresh_s,
            max_staleness_s=settings.max_staleness_s,
            on_closed=self._start_booking,
        )
        self._books = Books(self.directory, default_price(settings))
        self._journal = Journal(journal_directory(settings), settings.journal_bytes, unbooked=unbooked)
        self._drainer: Drainer | None = None
        self._store: Store | None = None
        self._administration: Administration | None = None
        self._accepted = AcceptedBuffer(lambda: self._store)
        self._tasks: list[asyncio.Task[None]] = []
        self.people = people(settings, self.directory, self._reached) if settings.sign_on else None

    def administration(self) -> Administration | None:
        """None until the database has been reached, or while there is none."""
        return self._administration

    def accepted(self, event: Accepted) -> None:
        """Somebody took a completion."""
        self._accepted.add(event)

    def metered(self, backend: Backend) -> MeteredBackend:
        """The backend on the account of whoever asks."""
        deadline_s = self._settings.interactive_deadline_s
        return MeteredBackend(
            backend,
            self._model,
            self._books,
            self._counters,
            self._journal,
            self._used,
            deadlines={"interactive": deadline_s} if deadline_s else {},
            terms=self._settings.required_terms,
        )

    async def start(self) -> None:
        """Return when it is known whether there are keys, or that this cannot be known now."""
        await self.directory.refresh()
        running = (self.directory.run(), self._watch_budgets(), self._accepted.run())
        self._tasks = [asyncio.create_task(part) for part in running]

    async def stop(self, within_s: float = STOP_S) -> None:
        """Book what was used; whatever goes wrong with that, what is on the disk stays there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.directory.close()
        if self.people is not None:
            await self.people.sign_on.close()
        if self._drainer is not None:
            await self._drainer.stop(within_s)
            await self._journal.stop()
        await self._counters.close()
        if self._store is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._accepted.flush()
            await self._store.close()

    async def _open(self) -> Store | None:
        settings = self._settings
        self._store = await open_store(settings, make=settings.closed)
        if self._store is not None:
            self._administration = Administration(self._store, lambda make: pepper(settings, make), self._books.default)
        return self._store

    async def _reached(self) -> Store:
        """The store. Raises StoreUnavailableError where it has not been reached yet."""
        if self._store is None:
            raise StoreUnavailableError("The database has not been reached yet.")
        return self._store

    async def _start_booking(self) -> None:
        """Once the server is closed: until then nothing is written anywhere."""
        if self._drainer is None:
            self._drainer = Drainer(self._journal, self._book, self._progressed)
            self._drainer.start()

    async def _book(self, entries: Sequence[LedgerEntry]) -> int:
        assert self._store is not None, "the drainer starts after the store"
        return await self._store.book(entries)

    def _used(self, team: Team, entry: LedgerEntry) -> None:
        tokens = entry.prompt_tokens + entry.completion_tokens
        self._usage.used(team.name, entry.kind, tokens, float(dollars(entry.cost)))

    def _progressed(self, progress: Progress) -> None:
        self._usage.booked(progress.booked)
        self._usage.refused(progress.refused)
        self._usage.waiting(progress.waiting, progress.oldest_s)

    async def _watch_budgets(self) -> None:
        """Tell how far budgets are used, for boards and alerts: once there are any. Who asks the book may make it."""
        while True:
            await asyncio.sleep(BUDGETS_S)
            if not self.directory.closed:
                continue
            with contextlib.suppress(MeteringUnavailableError):
                self._usage.budgets_used(self._shares(await self._counters.budgets()))

    def _shares(self, uses: Sequence[BudgetUse]) -> dict[str, float]:
        """By team. What nobody has asked for in this process's time is on the ledger all the same."""
        spent = {use.account: use.spent for use in uses}
        shares = {}
        for team in self.directory.teams():
            if team.budget is not None and team.budget.amount:
                booked = self.directory.spent(team.id)
                amount = max(spent.get(f"team:{team.id}", 0), 0 if booked is None else booked.amount)
                shares[team.name] = amount / team.budget.amount
        return shares
