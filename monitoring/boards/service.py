"""Board *Service*: what users feel, and how much of the error budget is left."""

from __future__ import annotations

from monitoring import metrics as m
from monitoring.boards import promql as q
from monitoring.boards.attribution import ATTRIBUTION
from monitoring.boards.panel import Board, Panel, Row
from monitoring.specs import FIRST_TOKEN_OBJECTIVE_S as LATE_S

SECOND_ERRORS = ((0.005, "orange"), (0.02, "red"))
SHOWN = '{model=~"$model"}'

_GOLDEN = Row(
    "Golden signals",
    (
        Panel(
            "Requests",
            "HTTP requests for work a second, by how they ended. aborted and superseded are people who went on typing.",
            ((q.rate(m.HTTP_REQUESTS, "outcome"), "{{outcome}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Failed and shed",
            "Share of the answered requests that failed or found no room. This spends the error budget of 0.5%.",
            (
                (
                    q.ratio(
                        q.rate(m.HTTP_REQUESTS, outcome="failed|shed"),
                        q.rate(m.HTTP_REQUESTS, outcome="ok|failed|shed"),
                    ),
                    "failed or shed",
                ),
            ),
            "percentunit",
            thresholds=SECOND_ERRORS,
        ),
        Panel(
            "Time to first token",
            "As clients wait for it, from when a request comes to the front. Below 0.1 s feels instant; objective: "
            f"99% within {LATE_S:g} s.",
            tuple((q.quantile(p, m.HTTP_FIRST_TOKEN), f"p{p * 100:g}") for p in (0.5, 0.9, 0.99)),
            "s",
            thresholds=((0.1, "orange"), (LATE_S, "red")),
        ),
        Panel(
            "Inter-token latency",
            "Between two tokens of one sequence. Above 0.1 s people read faster than the text comes.",
            tuple((q.quantile(p, m.INTER_TOKEN_LATENCY), f"p{p * 100:g}") for p in (0.5, 0.9, 0.99)),
            "s",
            thresholds=((0.05, "orange"), (0.1, "red")),
        ),
        Panel(
            "Request latency",
            "From when a request comes to the front to the end of its answer, whole or streamed.",
            tuple((q.quantile(p, m.HTTP_REQUEST_TIME), f"p{p * 100:g}") for p in (0.5, 0.9, 0.99)),
            "s",
        ),
        Panel(
            "Tokens",
            "Tokens generated, and prompt tokens taken in, a second.",
            ((q.rate(m.GENERATION_TOKENS), "generated"), (q.rate(m.PROMPT_TOKENS), "prompt")),
            "short",
        ),
    ),
)

_BUDGET = Row(
    "Objectives",
    (
        Panel(
            f"First tokens within {LATE_S:g} s",
            "Share of the requests that wait for one, now, as clients wait. The objective is 99%.",
            ((q.share_below(m.HTTP_FIRST_TOKEN, LATE_S), f"within {LATE_S:g} s"),),
            "percentunit",
            kind="stat",
            thresholds=((0.0, "red"), (0.98, "orange"), (0.99, "green")),
        ),
        Panel(
            "Error budget burn",
            "How many times faster than allowed the budget of 0.5% failed or shed requests is being spent. "
            "14.4 for an hour spends 2% of a month's.",
            tuple((f"max (starcoder:errors:burn_{window}{SHOWN})", window) for window in ("5m", "30m", "1h", "6h")),
            "x",
            thresholds=((1.0, "orange"), (14.4, "red")),
        ),
        Panel(
            "Time-to-first-token budget burn",
            f"The same for the budget of 1% of first tokens that may take longer than {LATE_S:g} s.",
            tuple((f"max (starcoder:ttft:burn_{window}{SHOWN})", window) for window in ("5m", "30m", "1h", "6h")),
            "x",
            thresholds=((1.0, "orange"), (14.4, "red")),
        ),
        Panel(
            "Where the first token waits",
            "For clients, from a replica's view, and in engines' queues alone. Clients above replicas: the ingress is "
            "busy, or no engine takes what it has. Replicas above queues: prompts take long.",
            tuple(
                (q.quantile(p, spec), f"{where} p{p * 100:g}")
                for p in (0.5, 0.99)
                for spec, where in (
                    (m.HTTP_FIRST_TOKEN, "client"),
                    (m.TIME_TO_FIRST_TOKEN, "replica"),
                    (m.REQUEST_QUEUE_TIME, "queue"),
                )
            ),
            "s",
        ),
        Panel(
            "Shed and refused",
            "Requests refused a second, by why. queue_full: more replicas or fewer requests are needed.",
            ((q.rate(m.REQUESTS_REJECTED, "reason"), "{{reason}}"),),
            "reqps",
        ),
    ),
)

_TEAMS = Row(
    "By team and dialect",
    (
        Panel(
            "Requests by team",
            "HTTP requests a second.",
            ((q.rate(m.HTTP_REQUESTS, "team"), "{{team}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Time to first token by team",
            "The 99th percentile, as clients wait: does one team suffer, or do all?",
            ((q.quantile(0.99, m.HTTP_FIRST_TOKEN, "team"), "{{team}}"),),
            "s",
        ),
        Panel(
            "Failed and shed by team",
            "Requests a second that failed or found no room.",
            ((q.rate(m.HTTP_REQUESTS, "team", outcome="failed|shed"), "{{team}}"),),
            "reqps",
        ),
        Panel(
            "Displaced by team",
            "Requests a second that lost their place in a full queue to a team with less of it. It shows who floods.",
            ((q.rate(m.DISPLACED, "team"), "{{team}}"),),
            "reqps",
        ),
        Panel(
            "Requests by dialect",
            "HTTP requests a second, by the API they came in by.",
            ((q.rate(m.HTTP_REQUESTS, "dialect"), "{{dialect}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Request latency by dialect",
            "The 90th percentile, by the API that requests came in by.",
            ((q.quantile(0.9, m.HTTP_REQUEST_TIME, "dialect"), "{{dialect}}"),),
            "s",
        ),
        Panel(
            "Prompt sizes by team",
            "Tokens of a prompt, on average and in the largest tenth. Long ones hold up everybody's first tokens.",
            (
                (q.mean(m.REQUEST_PROMPT_TOKENS, "team"), "{{team}} mean"),
                (q.quantile(0.9, m.REQUEST_PROMPT_TOKENS, "team"), "{{team}} p90"),
            ),
            "short",
        ),
    ),
)

_USAGE = Row(
    "What teams use",
    (
        Panel(
            "Tokens by team",
            "Tokens a second on a team's account, prompts and completions.",
            ((q.rate(m.USAGE_TOKENS, "team"), "{{team}}"),),
            "short",
            stacked=True,
        ),
        Panel(
            "Cost by team",
            "USD in the time that is shown. The ledger has the exact amounts: `starcoder usage`.",
            ((q.increase(m.USAGE_COST, "team"), "{{team}}"),),
            "currencyUSD",
            kind="stat",
        ),
        Panel(
            "Budgets used",
            "Of each team's budget, in its present period. A hard one refuses what would go beyond it.",
            ((q.value(m.BUDGET_USED, "team", how="max"), "{{team}}"),),
            "percentunit",
            thresholds=((0.8, "orange"), (1.0, "red")),
        ),
        Panel(
            "What became of it",
            "Tokens a second on a team's account by whether somebody waited for them to the end.",
            ((q.rate(m.USAGE_TOKENS, "kind"), "{{kind}}"),),
            "short",
            stacked=True,
        ),
        Panel(
            "Usage booked",
            "Calls of an engine a second that came onto the ledger, and those that it will never take.",
            ((q.rate(m.USAGE_BOOKED), "booked"), (q.rate(m.USAGE_REFUSED), "refused for good")),
            "short",
        ),
        Panel(
            "Usage not yet booked",
            "What waits on the nodes' disks for the database. While that is away it grows, and nothing is lost.",
            ((q.value(m.USAGE_WAITING, "instance"), "{{instance}}"),),
            "short",
        ),
        Panel(
            "Age of the oldest",
            "Since the request of the oldest entry that waits has ended. Some seconds, while the database answers.",
            ((q.value(m.USAGE_OLDEST, "instance", how="max"), "{{instance}}"),),
            "s",
            thresholds=((60.0, "orange"), (300.0, "red")),
        ),
    ),
)

_WORTH = Row(
    "What it is worth",
    (
        Panel(
            "What people do with completions",
            "Where editors say so (Tabby's clients): seen, taken whole, taken by the line, dismissed; a second.",
            ((q.rate(m.COMPLETION_EVENTS, "event"), "{{event}}"),),
            "short",
        ),
        Panel(
            "Acceptance",
            "Completions taken, of those seen.",
            (
                (
                    q.ratio(
                        q.rate(m.COMPLETION_EVENTS, event="select|select_line"),
                        q.rate(m.COMPLETION_EVENTS, event="view"),
                    ),
                    "taken",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Given up",
            "Requests superseded by a newer one of their session, and sequences whose client left, a second.",
            ((q.rate(m.SUPERSEDED), "superseded"), (q.rate(m.CANCELLED), "cancelled")),
            "short",
        ),
        Panel(
            "Wasted tokens",
            "Tokens generated for nobody, of all generated.",
            (
                (
                    f"{q.rate(m.WASTED_TOKENS, 'cause')} / on () group_left () {q.rate(m.GENERATION_TOKENS)}",
                    "{{cause}}",
                ),
            ),
            "percentunit",
            thresholds=((0.2, "orange"), (0.5, "red")),
        ),
        Panel(
            "Typed ahead",
            "Requests answered from text that was generated before it was asked for, and the tokens saved; a second.",
            ((q.rate(m.TYPED_AHEAD_REQUESTS), "requests"), (q.rate(m.TYPED_AHEAD_TOKENS), "tokens")),
            "short",
        ),
        Panel(
            "Long prompts in pieces",
            "Pieces a second of editor sessions' prompts that would hold up everybody else for most of a second.",
            ((q.rate(m.PROMPT_PIECES), "pieces"),),
            "short",
        ),
        Panel(
            "Stop rules",
            "Completions a second that a rule of the server ended or cut, by which.",
            ((q.rate(m.STOP_RULE_ENDS, "rule"), "{{rule}}"),),
            "short",
        ),
        Panel(
            "How sequences end",
            "A second: stop, length, abort (the client left), error (the engine failed).",
            ((q.rate(m.REQUEST_SUCCESS, "finished_reason"), "{{finished_reason}}"),),
            "short",
            stacked=True,
        ),
    ),
)

SERVICE = Board(
    "starcoder-service",
    "StarCoder: Service",
    "What users feel: rate, errors, latency, and the budgets that are left. Start here when somebody complains.",
    (_GOLDEN, _BUDGET, _TEAMS, _USAGE, _WORTH, ATTRIBUTION),
    {"model": m.HTTP_REQUESTS.full_name, "team": m.HTTP_REQUESTS.full_name, "instance": m.HTTP_REQUESTS.full_name},
)
