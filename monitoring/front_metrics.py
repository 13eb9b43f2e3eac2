"""The metrics of what stands before the engines: ingresses, the router, what a client would see; and of exporters."""

from __future__ import annotations

from monitoring.specs import ATTRIBUTION_BUCKETS, Section

FRONT = Section("In front of the engines")

REQUESTS_RECEIVED = FRONT.counter(
    "requests_received_total", "HTTP requests for work (POST) that have come to an ingress."
)
REQUESTS_OPEN = FRONT.gauge("requests_open", "Those of them that have not ended yet, of living ingresses.")
INGRESSES_UP = FRONT.gauge(
    "ingresses_up",
    "Ingress processes of the node that live, whether they answer or not. 0 where there is an engine only.",
)
OLDEST_TURN = FRONT.gauge(
    "ingress_oldest_turn_timestamp_seconds",
    "When the event loop turned last that has stood still longest, of the node's living ingresses, in Unix seconds; "
    "each notes it once a second.",
    merge="livemin",
)
NEWEST_TURN = FRONT.gauge(
    "ingress_newest_turn_timestamp_seconds",
    "The same of the loop that turned last: where that is long ago, none answers.",
    merge="livemax",
)
PROBE_SUCCESS = FRONT.gauge(
    "probe_success",
    "Whether the server answered the exporter's last `GET /version` at its public port (1) or not (0), as a client "
    "would have seen it. Absent until it has answered once.",
    merge="livemin",
)
PROBE_TIME = FRONT.gauge("probe_seconds", "How long that took, or was waited for.", merge="livemax")
ROUTING_DECISIONS = FRONT.counter(
    "routing_decisions_total",
    "Requests sent to an engine, by why to that one: session (its editor session lives there), prefix (it is thought "
    "to hold most of the prompt), nothing_known (none holds any), passed_over (another one holds more, or has the "
    "session, but is too busy or silent).",
    labels=("model", "reason"),
)
KNOWN_PREFIX_TOKENS = FRONT.counter(
    "routing_known_prefix_tokens_total",
    "Prompt tokens that some engine was thought to have cached: what there was to hit.",
)
EXPECTED_PREFIX_TOKENS = FRONT.counter(
    "routing_expected_prefix_tokens_total",
    "Prompt tokens that the engine was thought to have cached to which the request went.",
)
REQUESTS_RESUMED = FRONT.counter(
    "requests_resumed_total",
    "Requests that another engine went on with, or began anew, after theirs had died; once for each time.",
)
REQUESTS_LOST = FRONT.counter(
    "requests_lost_total",
    "Requests that failed since their engine died and no other took them over in time, or three died in a row.",
)
WAITING_FOR_ENGINE = FRONT.gauge(
    "requests_waiting_for_engine", "Requests that the ingress holds since no engine is there to take them."
)

ATTRIBUTION = Section("Whose code completions repeat")

ATTRIBUTION_COMPLETIONS = ATTRIBUTION.counter(
    "attribution_completions_total", "Completions that were looked up in the attribution index."
)
ATTRIBUTION_MATCHES = ATTRIBUTION.counter(
    "attribution_matches_total", "Those of them that repeat code of the index, and were answered with its source."
)
ATTRIBUTION_BLOCKED = ATTRIBUTION.counter(
    "attribution_blocked_total", "Those that were ended since they would have repeated 150 characters of it."
)
ATTRIBUTION_FAILURES = ATTRIBUTION.counter(
    "attribution_failures_total",
    "Completions that could not be looked up, since the index could not be read: answered without a source, or, where "
    "copies are blocked, with 503.",
)
ATTRIBUTION_SECONDS = ATTRIBUTION.histogram(
    "attribution_seconds", "Time to look up one completion, in a thread.", buckets=ATTRIBUTION_BUCKETS
)

EXPORTER = Section("The exporter of a node")

COLLECTED_AT = EXPORTER.page_gauge(
    "page_collected_timestamp_seconds",
    "When the page was collected, by the node's clock: it is done every second, and no scrape waits for it. "
    "Only on the page of an exporter.",
)
