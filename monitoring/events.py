"""Every event of the log, and every field that a line may have, declared once.

A line is one JSON object whose fields have the same type in every event, as stores of logs want it.
`docs/observability.md` lists what stands here, and the tests hold every line that they see to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TEXT, WHOLE, NUMBER, FLAG, TEXTS, OBJECT = (str,), (int,), (int, float), (bool,), (list,), (dict,)
"""Types of a field, as JSON has them: a float that happens to be whole may lose its point on the way."""

EVERY_LEVEL = ("debug", "info", "warning", "error", "critical")

FIELDS: Mapping[str, tuple[type, ...]] = {
    # of every line
    **dict.fromkeys(("time", "level", "event", "message", "exception", "process", "replica", "node", "logger"), TEXT),
    "pid": WHOLE,
    # of a request
    **dict.fromkeys(("request_id", "given_request_id", "team", "key", "model", "dialect", "method", "path"), TEXT),
    **dict.fromkeys(("outcome", "engine", "trace_id", "user_agent", "completion_id"), TEXT),
    **dict.fromkeys(("status", "sequences", "prompt_tokens", "cached_tokens", "completion_tokens"), WHOLE),
    **dict.fromkeys(("queue_ms", "ttft_ms", "duration_ms"), NUMBER),
    **dict.fromkeys(("finish_reasons", "ended_by", "completion_ids", "prompts", "texts"), TEXTS),
    "stream": FLAG,
    "error": OBJECT,
    # of an engine
    **dict.fromkeys(("replaces", "device", "dtype", "forward", "forward_reason", "forward_products"), TEXT),
    **dict.fromkeys(("seconds", "load_seconds"), NUMBER),
    **dict.fromkeys(("tensor_parallel_size", "parameter_bytes", "kv_cache_bytes", "kv_cache_tokens"), WHOLE),
    **dict.fromkeys(("max_model_len", "rank", "rank_pid", "open_requests"), WHOLE),
    # of the rest
    **dict.fromkeys(("field", "reason", "client", "user", "error_type"), TEXT),
    **dict.fromkeys(("left_out", "lines", "rows", "estimated"), WHOLE),
    "admin": FLAG,
}


OF_EVERY_LINE = ("time", "level", "event", "process", "replica", "node", "pid", "rank")
"""What says when and where a line was written, not what of. Each process has those that there are of it."""


class Event(NamedTuple):
    """name: of the event. levels: that it may have. meaning: what a line of it says, in Markdown. has: fields of each
    of its lines. may: those of some."""

    name: str
    levels: tuple[str, ...]
    meaning: str
    has: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


def _event(name: str, levels: tuple[str, ...], meaning: str, *, has: str = "", may: str = "") -> Event:
    return Event(name, levels, meaning, tuple(has.split()), tuple(may.split()))


_INFO, _WARNING, _ERROR = ("info",), ("warning",), ("error",)

EVENTS = (
    _event(
        "request",
        ("debug", "info", "warning", "error"),
        "a request is over: see above",
        has="request_id method path outcome duration_ms",
        may=(
            "status given_request_id team key model dialect stream sequences prompt_tokens cached_tokens "
            "completion_tokens finish_reasons ended_by queue_ms ttft_ms error engine completion_ids "
            "trace_id user_agent prompts texts exception"
        ),
    ),
    _event(
        "engine.starting",
        _INFO,
        "`replaces`: the dead engine whose place it takes, if it does",
        has="model tensor_parallel_size",
        may="replaces",
    ),
    _event(
        "engine.ready",
        _INFO,
        "`seconds` after its start it takes requests; sizes of all ranks together; `forward`, `forward_reason` and "
        "`forward_products` as `/version` has them",
        has=(
            "model seconds load_seconds device dtype tensor_parallel_size parameter_bytes "
            "kv_cache_bytes kv_cache_tokens max_model_len"
        ),
        may="forward forward_reason forward_products",
    ),
    _event("engine.start_failed", _ERROR, "why an engine could not start", has="exception"),
    _event("rank.failed", _ERROR, "what a rank raised, from its own process", has="exception"),
    _event(
        "rank.died",
        _ERROR,
        "`rank` and `rank_pid` of a process that ended; `message` says how",
        has="message rank rank_pid",
    ),
    _event("rank.killed", _WARNING, "it did not stop when it was asked to", has="message"),
    _event(
        "engine.dead",
        _ERROR,
        "why the engine is given up; its process ends, and Serve starts another",
        has="message",
    ),
    _event(
        "engine.killed",
        _ERROR,
        "the process of `engine` ended without a word, says its successor as it starts",
        has="message engine",
    ),
    _event(
        "engine.request_failed",
        _ERROR,
        "the traceback behind a `failed` request, from the replica",
        has="completion_id exception",
        may="request_id",
    ),
    _event(
        "attribution.unreadable",
        _ERROR,
        "the index cannot be read; told once, until it can be read again",
        has="message",
    ),
    _event("engine.stopping", _INFO, "in order, after open streams", has="open_requests"),
    _event("engine.stopped", _INFO, "it has"),
    _event(
        "request.resuming",
        _INFO,
        "the engine of `request_id` died, or of what asks for no completion, and another one is asked to go on; "
        "`message` says why",
        has="message",
        may="request_id",
    ),
    _event(
        "request.unknown_field",
        _INFO,
        "a request had a `field` that the route `path` does not: the first request that had it, 256 names at most, "
        "and only such as could be a field's",
        has="path field",
    ),
    _event(
        "connection.refused",
        _INFO,
        "before it was a request, or cut: `reason` (the code that it was answered with, or `slow_reader`), `client` "
        "(its address). HAProxy's are told by one ingress process of its node, for which what it refuses itself comes "
        "from 127.0.0.1. 20 lines a minute; `left_out` says how many there were between them. "
        "`starcoder_connections_refused_total` counts all",
        may="reason client left_out",
    ),
    _event(
        "usage.not_booked",
        ("warning", "error"),
        "the database did not take what teams have used; it stays in the journal, and is tried again. Once, until it "
        "succeeds",
        may="message exception",
    ),
    _event(
        "usage.entries_refused",
        _ERROR,
        "the database refused `rows` for good; they are in the file `path`, and on no bill",
        has="message rows path",
    ),
    _event(
        "usage.journal_failed",
        _ERROR,
        "the journal could not be written, or is full, and requests are refused (503 `metering_unavailable`): `path`. "
        "Once, until it can be",
        has="message path",
    ),
    _event(
        "usage.journal_adopted",
        _INFO,
        "a process died; another one books what it left: `rows`, of which `estimated` were of requests under way",
        has="rows estimated path",
    ),
    _event(
        "usage.journal_damaged",
        _ERROR,
        "a dead process's journal could not be read: `path`. Where that ends in `.damaged`, it has lines that cannot "
        "be, and is kept there for people; else it is tried again",
        has="message path",
    ),
    _event(
        "usage.left_in_journal",
        _WARNING,
        "a process ends before the database took everything; the next one on the node goes on",
        may="message exception",
    ),
    _event(
        "teams.database_away",
        _ERROR,
        "keys, teams and budgets cannot be read; what is known goes on for `teams.max-staleness-s`. Once, until it is "
        "back",
        has="message error_type",
    ),
    _event("teams.database_back", _INFO, "they can again", has="message"),
    _event(
        "teams.accepted_wait",
        _WARNING,
        "accepted completions are not in the ledger yet; they are tried again",
        has="message",
    ),
    _event(
        "limits.book_failed",
        _ERROR,
        "the counters of limits that ingresses share raised `exception`",
        has="exception",
    ),
    _event(
        "sign_on.signed_in",
        _INFO,
        "somebody signed in: `user` (the provider's `sub`), `admin` (whether they are an administrator)",
        has="user admin",
    ),
    _event(
        "sign_on.failed",
        _WARNING,
        "somebody could not sign in; `message` says why ([single-sign-on.md](single-sign-on.md))",
        has="message",
    ),
    _event("sign_on.no_such_team", _WARNING, "`oidc_team_groups` names a team that there is not", has="message"),
    _event("log_text.enabled", _WARNING, "this log holds prompts and completions", has="message"),
    _event(
        "log_file.unusable",
        _WARNING,
        "`log_file` cannot be opened here; standard output is written to instead",
        has="message",
    ),
    _event(
        "log.dropped",
        _WARNING,
        "so many `lines` could not be written: nobody read them fast enough, or no room",
        has="message lines",
    ),
    _event(
        "log",
        EVERY_LEVEL,
        "a message of a library in one of our processes; `logger` names it",
        has="logger",
        may="message exception",
    ),
    _event(
        "server.progress",
        _INFO,
        "`starcoder serve` starts: a step, with its `seconds` where it is over",
        has="message",
        may="seconds",
    ),
    _event(
        "server.ready",
        _INFO,
        "it answers; `forward`, `forward_reason` and `forward_products` as of `engine.ready`",
        has="message seconds",
        may="forward forward_reason forward_products",
    ),
    _event("server.stopping", _INFO, "it was told to stop: open streams may finish", has="message"),
    _event(
        "server.answers_cut",
        _WARNING,
        "`drain-timeout-s` is over, and clients have not read all that was written",
        has="message",
    ),
    _event("server.stopped", _INFO, "it has", has="message"),
    _event("server.lost", _ERROR, "it ends, since Ray or its application has; `message` says which", has="message"),
    _event(
        "server.ray_ended", _ERROR, "Ray has ended while streams were open, which are not waited for", has="message"
    ),
    _event("server.failed", _ERROR, "it did not start; `message` says why", has="message", may="exception"),
    _event(
        "output",
        EVERY_LEVEL,
        "what Ray or a library printed, a traceback as one line of the log; `level` as the text says, `process` "
        "whose it is",
        has="message",
    ),
)

BY_NAME: Mapping[str, Event] = {event.name: event for event in EVENTS}


def wrong(line: Mapping[str, Any]) -> list[str]:
    """What is not as declared in a line of the log."""
    event = BY_NAME.get(str(line.get("event")))
    if event is None:
        return [f"there is no event {line.get('event')!r}"]
    faults = [] if line.get("level") in event.levels else [f"{event.name} at level {line.get('level')!r}"]
    faults += [f"{event.name}: {name} is missing" for name in event.has if name not in line]
    declared = {*OF_EVERY_LINE, *event.has, *event.may}
    for name, value in line.items():
        types = FIELDS.get(name, ()) if name in declared else ()
        if not isinstance(value, types) or (isinstance(value, bool) and types is not FLAG):
            faults.append(f"{event.name}: {name} is {value!r:.60}")
    return faults


_BEGIN = "<!-- events: made from monitoring/events.py by `make boards` -->\n"
_END = "<!-- end of the events -->\n"


def with_events(document: str) -> str:
    """The document with the events between its marks. Raises ValueError where it has none."""
    before, mark, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (mark and end):
        raise ValueError(f"the document has no lines {_BEGIN!r} and {_END!r}")
    return f"{before}{mark}\n{_table()}\n{end}{after}"


def _table() -> str:
    head = "| `event` | `level` | | fields |\n| --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{event.name}` | {'' if event.levels == EVERY_LEVEL else ', '.join(event.levels)} | {event.meaning} "
        f"| {_fields(event)} |\n"
        for event in EVENTS
    )


def _fields(event: Event) -> str:
    has, may = (", ".join(f"`{name}`" for name in names) for names in (event.has, event.may))
    return "; ".join(filter(None, (has, may and f"in some {may}")))
