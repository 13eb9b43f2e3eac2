"""Every label and the values it may take, or who declares them. No client can add series: what is none of the values is
written as the last one.

Never a key, a request id or an editor session: those belong in logs and traces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

OTHER_DIALECT = "other"

OUTCOMES = ("ok", "refused", "shed", "aborted", "superseded", "failed")
"""How an HTTP request ended. ok: answered whole; refused: the client's fault (4xx, and a used-up limit or budget);
shed: no room for it (429); aborted: the client went away; superseded: a newer request of its editor session took its
place; failed: our fault (5xx, or a stream that ended with an error)."""

FINISH_REASONS = ("stop", "length", "abort", "error")
REJECTION_REASONS = (
    *("queue_full", "invalid", "too_large", "deadline", "draining", "unavailable"),
    *("unauthorized", "forbidden", "rate_limited", "quota", "other"),
)
CONNECTION_REFUSALS = (
    *("invalid_http", "request_timeout", "request_line_too_long", "head_too_large"),
    *("too_many_connections", "slow_reader", "tls_handshake", "other"),
)
"""Why a connection was refused before it was a request, by the code that it was answered with; slow_reader: it was cut
since its client did not take its answer; tls_handshake: client and HAProxy did not agree on TLS, or it spoke none."""
RoutingReason = Literal["session", "prefix", "nothing_known", "passed_over"]
"""Why a request went to its engine."""
ROUTING_REASONS: tuple[RoutingReason, ...] = get_args(RoutingReason)
USAGE_KINDS = ("completed", "superseded", "cancelled", "failed")
"""What became of what was computed on a team's account."""
WASTE_CAUSES = ("superseded", "cancelled")
SERVICE_CLASSES = ("interactive", "standard", "batch")
"""By their number, which the engine knows."""
STEP_PHASES = ("schedule", "forward", "sample", "other")
FAILURE_CAUSES = ("died", "hung", "heartbeat", "start", "killed", "other")

PROCESSES = ("engine", "ingress")
"""Whose ends are told apart from deaths."""

COMPLETION_EVENT_KINDS = ("view", "select", "select_line", "dismiss")
LANGUAGES = (
    *("c", "clojure", "cpp", "csharp", "css", "dart", "elixir", "go", "haskell", "html", "java", "javascript"),
    *("javascriptreact", "json", "julia", "kotlin", "lua", "markdown", "perl", "php", "python", "r", "ruby", "rust"),
    *("scala", "shellscript", "sql", "swift", "typescript", "typescriptreact", "yaml", "other"),
)
"""Editors' identifiers; a language that is not among them counts as `other`."""

DEFAULT_TEAM = "default"
OTHER_TEAM = "other"
MOST_TEAMS = 64


@dataclass(frozen=True)
class DeclaredLabels:
    """Values that what stands above this package declares: each dialect its own, and each stop rule.

    apis: the dialects that there are. dialects: they, and what stands for all others. rules: the stop rules.
    """

    apis: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def dialects(self) -> tuple[str, ...]:
        return (*self.apis, OTHER_DIALECT)


NOTHING_DECLARED = DeclaredLabels()


def documented(declared: DeclaredLabels) -> dict[str, str]:
    """Label to the values it takes, for people."""
    return {
        "model": "the served name; one a deployment",
        "team": f"the team that the request's key belongs to, at most {MOST_TEAMS}; `{DEFAULT_TEAM}` without keys, "
        f"`{OTHER_TEAM}` for any beyond",
        "dialect": ", ".join(declared.dialects),
        "outcome": ", ".join(OUTCOMES),
        "finished_reason": ", ".join(FINISH_REASONS),
        "reason": f"of requests: {', '.join(REJECTION_REASONS)}; of connections: {', '.join(CONNECTION_REFUSALS)}; "
        f"of routing: {', '.join(ROUTING_REASONS)}",
        "cause": f"of waste: {', '.join(WASTE_CAUSES)}; of a failure: {', '.join(FAILURE_CAUSES)}",
        "kind": ", ".join(USAGE_KINDS),
        "process": ", ".join(PROCESSES),
        "service_class": ", ".join(SERVICE_CLASSES),
        "rule": ", ".join(declared.rules),
        "phase": ", ".join(STEP_PHASES),
        "event": ", ".join(COMPLETION_EVENT_KINDS),
        "language": f"{len(LANGUAGES)} identifiers of editors, `other` included",
        "rank": "the tensor-parallel rank, from 0",
        "recorder": "a living process of the node: its id and a random part",
        "gpu": "the UUID of a GPU of the node",
    }


def bounded(value: str, allowed: tuple[str, ...]) -> str:
    """`value`, or the last of `allowed` where it is none of them."""
    return value if value in allowed else allowed[-1]


class TeamNames:
    """The values of the label `team` in one process: teams as they come, as long as there are few enough.

    Names are those of teams that an administrator has made, never what a client says.
    """

    def __init__(self) -> None:
        self._known = {DEFAULT_TEAM}

    def label(self, team: str) -> str:
        """The team's own name, or OTHER_TEAM where MOST_TEAMS others were there before it."""
        if team in self._known:
            return team
        if team == OTHER_TEAM or len(self._known) > MOST_TEAMS:
            return OTHER_TEAM
        self._known.add(team)
        return team
