"""The twelve failures, and what should be seen of each."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.drill import harm, switch
from benchmarks.drill.clients import Load
from benchmarks.drill.failure import Expected, Failure
from deployments.spelling import did_you_mean

TWO_ENGINES = ("--min-replicas", "2")
TWO_INGRESSES = ("--ingress-replicas", "2")
NARROW = ("--max-num-seqs", "4", "--max-queued-requests", "32")
"""Few clients fill the queue."""

SMALL_CACHE = ("--num-kv-blocks", "160", "--max-model-len", "2048")
"""2,560 tokens of key/value cache."""

PAGE_S = 240.0
"""Within which a page comes that is due after two minutes."""

UNNOTICED_S = 200.0
"""How long it is watched that no page comes."""

OVERLOAD = ("StarcoderErrorBudgetFastBurn", "StarcoderTtftBudgetFastBurn", "StarcoderQueueAge", "StarcoderShedding")
SLOW = ("StarcoderErrorBudgetSlowBurn", "StarcoderTtftBudgetSlowBurn")

FAILURES = (
    Failure(
        "queue-full",
        "the queue is full",
        "80 clients ask for 256 tokens each, of an engine with 4 places and a queue of 32",
        harm.clients(Load("noise", streams=80, prompt_tokens=256, max_tokens=256)),
        ("Requests", "Failed and shed", "Shed and refused", "Age of the queue", "Where the first token waits"),
        Expected(("StarcoderErrorBudgetFastBurn",), PAGE_S, may=(*OVERLOAD, *SLOW)),
        NARROW,
        alone=True,
    ),
    Failure(
        "long-prompts",
        "one client's long prompts",
        "one program sends prompts of 1,900 tokens, 48 at a time, and wants 4 of each",
        harm.clients(Load("noise", streams=48, prompt_tokens=1900, max_tokens=4)),
        ("Time to first token", "First tokens within 0.5 s", "Where the first token waits", "Prompt sizes by team"),
        Expected(("StarcoderTtftBudgetFastBurn",), PAGE_S, may=(*OVERLOAD, *SLOW)),
        alone=True,
    ),
    Failure(
        "cache-full",
        "the key/value cache is full, sequences are preempted",
        "12 clients ask for 1,000 tokens each, and the cache has room for 2,560",
        harm.clients(Load("noise", streams=12, prompt_tokens=64, max_tokens=1000)),
        ("Cache in use", "Preemptions for each that ends", "Computed for nobody", "Inter-token latency"),
        Expected(("StarcoderKvCachePressure",), 660.0, may=(*OVERLOAD, *SLOW, "StarcoderWastedWork")),
        SMALL_CACHE,
        alone=True,
    ),
    Failure(
        "engine-lost",
        "one of two engines dies and is not replaced",
        "its replica is killed, and the checkpoint has gone, so that no successor starts",
        harm.lost_for_good,
        ("Engines up", "Healthy replicas", "Desired and actual engines", "Starts and failures"),
        Expected(("StarcoderTooFewEngines",), 690.0, may=("StarcoderRankFailure", "StarcoderReplicaUnhealthy")),
        (*TWO_ENGINES, "--max-replicas", "3"),
    ),
    Failure(
        "ingresses-hung",
        "all ingresses hang",
        "both are stopped with their connections open (SIGSTOP), and so are those that Serve starts in their place",
        harm.hung(harm.INGRESS),
        ("Requests", "What a client sees", "Standstill of ingresses", "Ingresses"),
        Expected(
            ("StarcoderNoIngress",),
            PAGE_S,
            may=(
                *("StarcoderNotAnswering", "StarcoderIngressHung", "StarcoderNothingCompletes", "StarcoderProxyErrors"),
                *("StarcoderProcessKilled", "StarcoderReplicaUnhealthy", "StarcoderErrorBudgetFastBurn"),
            ),
        ),
        TWO_INGRESSES,
    ),
    Failure(
        "ingress-killed",
        "one of two ingresses is killed",
        "SIGKILL; Serve starts another within seconds",
        harm.killed(harm.INGRESS),
        ("Ingresses", "Starts and failures", "Failed and shed"),
        Expected(("StarcoderProcessKilled",), UNNOTICED_S),
        TWO_INGRESSES,
    ),
    Failure(
        "router-broken",
        "the router is broken",
        "it sends every request to the engine that does not hold its prefix",
        harm.stray_router,
        (
            "Prefixes known, expected, found",
            "What becomes of known prefixes",
            "Prefix-cache hits",
            "Time to first token",
        ),
        Expected(("StarcoderRouterAstray",), 900.0),
        TWO_ENGINES,
        command=("benchmarks.drill.breakable_serve",),
        environment=switch.environment,
        background=Load("twice", streams=2, pause_s=0.5, prompt_tokens=512),
    ),
    Failure(
        "speculation-harmful",
        "speculation does harm",
        "4 clients whose drafts are found all the time, and wrong, of an engine that no longer learns from it",
        harm.stubborn_drafts(Load("misleading", streams=4, prompt_tokens=512, max_tokens=1024)),
        ("What speculation is worth", "Time won by speculation", "Rejected drafts", "Step time"),
        Expected(("StarcoderSpeculationHarms",), 1150.0, may=("StarcoderTtftBudgetFastBurn", *SLOW)),
        ("--speculative-tokens", "8"),
        command=("benchmarks.drill.breakable_serve",),
        environment=switch.environment,
        alone=True,
    ),
    Failure(
        "metrics-gone",
        "the metrics are gone",
        "the exporter is killed, and another program has its port",
        harm.without_exporter,
        ("Exporters", "Age of the metrics", "Engines up", "Requests", "Failed and shed"),
        Expected(("StarcoderExporterDown", "StarcoderNoMetrics"), 420.0),
    ),
    Failure(
        "clients-cancel",
        "clients that cancel everything",
        "4 clients ask for 1,500 tokens each, and leave with the first, many times a second",
        harm.clients(Load("noise", streams=4, pause_s=0.2, max_tokens=1500, leaves=True)),
        ("Requests", "Requests by team", "Computed for nobody", "How sequences end"),
        Expected(("StarcoderTeamCancels",), 1150.0, may=("StarcoderWastedWork",)),
        background=Load("people", streams=1, pause_s=2.0),
    ),
    Failure(
        "engine-killed",
        "an engine is killed as by the out-of-memory killer",
        "SIGKILL to one of two replicas; Serve starts another",
        harm.killed(harm.ENGINE),
        ("Engines up", "Starts and failures", "Requests without an engine", "Failed and shed"),
        Expected(("StarcoderRankFailure",), UNNOTICED_S),
        TWO_ENGINES,
    ),
    Failure(
        "rollout",
        "a rollout",
        "the same application with another setting: both engines and both ingresses are replaced",
        harm.rollout,
        ("Engines up", "Starts and failures", "Failed and shed", "Time to first token"),
        Expected((), 260.0),
        (*TWO_ENGINES, *TWO_INGRESSES),
        command=("benchmarks.drill.rolling_serve",),
    ),
)

QUICK = "engine-killed"
"""The one whose alert comes soonest."""


def chosen(names: Sequence[str]) -> list[Failure]:
    """All where none is named. Raises ValueError for what is no failure."""
    known = {failure.name: failure for failure in FAILURES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no failure {name!r}{did_you_mean(name, known)}: {', '.join(known)}")
    return [known[name] for name in known if not names or name in names]
