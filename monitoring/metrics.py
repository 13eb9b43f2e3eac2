"""Every metric of StarCoder Serve, declared once: here, or in `front_metrics`. `docs/metrics.md` is made from both.

Where vLLM's v1 engine has a metric that means the same, the name is its, with the prefix `starcoder_`, so that its
dashboards translate by one substitution. Source: vLLM's `vllm/v1/metrics/loggers.py`.
"""

from __future__ import annotations

from monitoring.front_metrics import ATTRIBUTION, EXPORTER, FRONT
from monitoring.specs import (
    FIRST_TOKEN_BUCKETS,
    FIRST_TOKEN_OBJECTIVE_S,
    INTER_TOKEN_BUCKETS,
    QUEUE_BUCKETS,
    REQUEST_BUCKETS,
    REQUEST_TOKEN_BUCKETS,
    SEQUENCE_BUCKETS,
    STEP_BUCKETS,
    STEP_TOKEN_BUCKETS,
    AnySpec,
    EngineCounterSpec,
    Section,
)

BY_TEAM = ("model", "team")
BY_REQUEST = ("model", "team", "dialect")

CLIENTS = Section("What clients see")

HTTP_REQUESTS = CLIENTS.counter(
    "requests_total",
    "HTTP requests for work (POST) that have ended, by how: ok, refused (4xx), shed (no room), aborted (the client "
    "left), superseded, failed (5xx, or an error in a stream).",
    labels=("model", "team", "dialect", "outcome"),
)
HTTP_FIRST_TOKEN = CLIENTS.histogram(
    "http_time_to_first_token_seconds",
    "From when an HTTP request for text came to the server's front until the first bytes with text are sent; of a "
    "whole answer, less what its tokens behind the first took to be generated. Who leaves, or is superseded, after "
    f"{FIRST_TOKEN_OBJECTIVE_S:g} s without text counts with that time; requests that fail, are shed or refused "
    "before they have text do not.",
    labels=BY_REQUEST,
    buckets=FIRST_TOKEN_BUCKETS,
)
HTTP_REQUEST_TIME = CLIENTS.histogram(
    "http_request_duration_seconds",
    "From when an HTTP request came to the server's front to its end; of those that got text, streams and whole "
    "answers.",
    labels=BY_REQUEST,
    buckets=REQUEST_BUCKETS,
)
INTER_TOKEN_LATENCY = CLIENTS.histogram(
    "inter_token_latency_seconds",
    "Between two tokens of one sequence; tokens that leave together share the time since the last ones.",
    labels=BY_TEAM,
    vllm=True,
    buckets=INTER_TOKEN_BUCKETS,
)
REQUEST_SUCCESS = CLIENTS.counter(
    "request_success_total",
    "Sequences that have ended, by why: stop, length, abort (the client left), error (the engine failed; another one "
    "may have gone on with it, and counts it as well).",
    labels=("model", "team", "finished_reason"),
    vllm=True,
)
REQUESTS_REJECTED = CLIENTS.counter(
    "requests_rejected_total",
    "Requests refused before the engine ran them, by why.",
    labels=("model", "team", "reason"),
)
DISPLACED = CLIENTS.counter(
    "requests_displaced_total",
    "Requests that lost their place in a full queue to a team that had less of it; they were answered with 429.",
    labels=BY_TEAM,
)
CONNECTIONS_REFUSED = CLIENTS.counter(
    "connections_refused_total",
    "Connections that a proxy refused before they were a request, or cut since their client did not take its answer, "
    "by why.",
    labels=("model", "reason"),
)
COMPLETION_EVENTS = CLIENTS.counter(
    "completion_events_total",
    "What people did with the completions they saw, where an editor says so: view, select, select_line, dismiss.",
    labels=("model", "event", "language"),
)

TIMES = Section("Where a request's time goes")

TIME_TO_FIRST_TOKEN = TIMES.histogram(
    "time_to_first_token_seconds",
    "From the request's arrival at the replica to its first token; each sequence counts.",
    labels=BY_REQUEST,
    vllm=True,
    buckets=FIRST_TOKEN_BUCKETS,
)
E2E_REQUEST_LATENCY = TIMES.histogram(
    "e2e_request_latency_seconds",
    "From the request's arrival at the replica to its end; each sequence counts.",
    labels=BY_REQUEST,
    vllm=True,
    buckets=REQUEST_BUCKETS,
)
REQUEST_QUEUE_TIME = TIMES.histogram(
    "request_queue_time_seconds",
    "From the sequence's arrival at the engine to the first step that ran it.",
    labels=BY_TEAM,
    vllm=True,
    buckets=QUEUE_BUCKETS,
)
CLASS_QUEUE_TIME = TIMES.histogram(
    "class_queue_time_seconds",
    "The same by class of service: interactive runs before standard, and that before batch.",
    labels=("model", "service_class"),
    buckets=QUEUE_BUCKETS,
)
REQUEST_PREFILL_TIME = TIMES.histogram(
    "request_prefill_time_seconds",
    "From the first step that ran the sequence to its first token, as the replica sees it.",
    vllm=True,
    buckets=QUEUE_BUCKETS,
)
REQUEST_DECODE_TIME = TIMES.histogram(
    "request_decode_time_seconds",
    "From the sequence's first token to its last one.",
    vllm=True,
    buckets=REQUEST_BUCKETS,
)
REQUEST_PROMPT_TOKENS = TIMES.histogram(
    "request_prompt_tokens",
    "Tokens of the prompts of sequences that ended, those from the cache included.",
    labels=BY_TEAM,
    vllm=True,
    buckets=REQUEST_TOKEN_BUCKETS,
)
REQUEST_GENERATION_TOKENS = TIMES.histogram(
    "request_generation_tokens",
    "Tokens generated for sequences that ended.",
    vllm=True,
    buckets=REQUEST_TOKEN_BUCKETS,
)
OLDEST_WAITING = TIMES.gauge(
    "queue_oldest_age_seconds",
    "Age of the sequence that has waited longest for its first step, by the class of service that it came with, in the "
    "node's slowest replica; 0 if none waits.",
    labels=("model", "service_class"),
    merge="livemax",
)

WASTE = Section("What is computed for nobody, and what need not be computed")

SUPERSEDED = WASTE.counter(
    "requests_superseded_total",
    "Requests given up because a newer one of the same editor session took their place.",
    labels=BY_TEAM,
)
CANCELLED = WASTE.counter(
    "requests_cancelled_total", "Sequences given up because their client went away.", labels=BY_TEAM
)
WASTED_TOKENS = WASTE.counter(
    "wasted_tokens_total",
    "Tokens generated for sequences that were then superseded or cancelled.",
    labels=("model", "team", "cause"),
)
TYPED_AHEAD_REQUESTS = WASTE.counter(
    "typed_ahead_requests_total",
    "Requests answered, wholly or at first, from text that was generated before the user typed its beginning.",
    labels=BY_TEAM,
)
TYPED_AHEAD_TOKENS = WASTE.counter(
    "typed_ahead_tokens_total", "Tokens that such requests took over instead of generating them.", labels=BY_TEAM
)

PROMPT_PIECES = WASTE.counter(
    "session_prompt_pieces_total",
    "Pieces of long prompts of editor sessions that were computed one at a time, others being answered in between.",
)

STOP_RULE_ENDS = WASTE.counter(
    "stop_rule_ends_total",
    "Completions that a rule of the server ended or cut, by which.",
    labels=("model", "rule"),
)

USAGE = Section("What teams use, and whether it is booked")

USAGE_TOKENS = USAGE.counter(
    "usage_tokens_total",
    "Tokens on a team's account, of prompts and completions, by what became of them: completed, superseded, cancelled "
    "(the client left), failed.",
    labels=("model", "team", "kind"),
)
USAGE_COST = USAGE.counter("usage_cost_usd_total", "What they cost, in USD.", labels=BY_TEAM)
USAGE_BOOKED = USAGE.counter("usage_entries_booked_total", "Entries of the node's journals that the database has.")
USAGE_REFUSED = USAGE.counter(
    "usage_entries_refused_total",
    "Entries that the database refuses for good, as too large: set aside beside the journals. Anything but 0 is a "
    "fault.",
)
USAGE_WAITING = USAGE.gauge(
    "usage_entries_waiting", "Entries of the node's journals that wait for the database, of living processes."
)
USAGE_OLDEST = USAGE.gauge(
    "usage_oldest_waiting_seconds",
    "Since the request of the oldest such entry has ended, in the node's slowest process; 0 if none waits.",
    merge="livemax",
)
BUDGET_USED = USAGE.gauge(
    "budget_used_ratio",
    "Of a team's budget, what it has spent in the present period; above 1 only where the budget is not hard.",
    labels=BY_TEAM,
    merge="livemax",
)

STEPS = Section("The engine's steps")

REQUESTS_RUNNING = STEPS.gauge("num_requests_running", "Sequences in the engines' current batches.", vllm=True)
REQUESTS_WAITING = STEPS.gauge("num_requests_waiting", "Sequences that wait for a place in a batch.", vllm=True)
ENGINE_STEPS = STEPS.engine_counter("engine_steps_total", "Batches that the engines have run.")
LATE_COMPILATIONS = STEPS.engine_counter(
    "engine_late_compilations_total",
    "GPU kernels that rank 0 has compiled after the start, while a step waited for them. Anything but 0 is a fault.",
)
STEP_TIME = STEPS.histogram(
    "engine_step_seconds", "Length of one step, from scheduling to tokens.", buckets=STEP_BUCKETS
)
STEP_PHASE_TIME = STEPS.counter(
    "engine_step_phase_seconds_total",
    "Time of the steps by part: schedule (drafting, scheduling, building the batch), forward (the network on every "
    "rank), sample (logits to tokens; on a GPU also the wait for them), other (bookkeeping).",
    labels=("model", "phase"),
)
STEP_SEQUENCES = STEPS.histogram("engine_step_sequences", "Sequences in one step.", buckets=SEQUENCE_BUCKETS)
STEP_TOKENS = STEPS.histogram(
    "iteration_tokens_total",
    "Tokens in one step, prompt tokens, decoded tokens and drafts (a histogram: the name is vLLM's).",
    vllm=True,
    buckets=STEP_TOKEN_BUCKETS,
)
PACED_STEPS = STEPS.engine_counter(
    "engine_paced_steps_total",
    "Steps that would have computed more of prompts, had nobody decoded: they keep to the setting "
    "target-inter-token-latency-s.",
)
EXPECTED_STEP_TIME = STEPS.engine_counter(
    "engine_expected_step_seconds_total",
    "Time that the engines expected of steps with prompts: of those that tell what prompts cost, if there is a target.",
)
STEP_TIME_ERROR = STEPS.engine_counter(
    "engine_step_error_seconds_total",
    "By how much such steps took longer or shorter than expected.",
)
PROMPT_TOKENS = STEPS.engine_counter(
    "prompt_tokens_total", "Prompt tokens processed, those from the cache included.", vllm=True
)
GENERATION_TOKENS = STEPS.engine_counter("generation_tokens_total", "Tokens generated.", vllm=True)
PREEMPTIONS = STEPS.engine_counter(
    "num_preemptions_total", "Sequences that lost their cache blocks to others and were computed again.", vllm=True
)
RECOMPUTED_TOKENS = STEPS.engine_counter(
    "recomputed_tokens_total",
    "Tokens that were computed a second time, since their sequence had been preempted and the cache had not kept them.",
)
DRAFT_TOKENS = STEPS.engine_counter(
    "spec_decode_num_draft_tokens_total", "Drafted tokens that were checked.", vllm=True
)
ACCEPTED_DRAFT_TOKENS = STEPS.engine_counter(
    "spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.", vllm=True
)
MODEL_DRAFT_TOKENS = STEPS.engine_counter(
    "spec_decode_model_draft_tokens_total", "Of the drafted tokens that were checked, those of the draft model."
)
ACCEPTED_MODEL_DRAFT_TOKENS = STEPS.engine_counter(
    "spec_decode_model_accepted_tokens_total", "Of the drafted tokens that were right, those of the draft model."
)
DRAFT_MODEL_TIME = STEPS.engine_counter(
    "spec_decode_model_seconds_total", "Time of the draft model's passes, a part of the steps' phase schedule."
)
DRAFTED_STEP_TIME = STEPS.engine_counter(
    "spec_decode_step_seconds_total",
    "Time of the steps without prompts that checked drafts or that a draft model ran before, as far as it is known "
    "what they would have taken without, and what it took to catch up before steps with prompts.",
)
PLAIN_STEP_TIME = STEPS.engine_counter(
    "spec_decode_plain_seconds_total",
    "Time that steps without drafts would have taken for the tokens of these, by the last such steps of as many "
    "sequences. Where it is less, speculation does harm.",
)

CACHE = Section("The key/value cache")

KV_CACHE_USAGE = CACHE.gauge(
    "kv_cache_usage_perc",
    "Share of the cache that running sequences hold, 0 to 1, in the node's fullest replica.",
    vllm=True,
    merge="livemax",
)
KV_CACHE_BLOCKS = CACHE.gauge("kv_cache_blocks", "Blocks of the key/value cache, of all replicas of the node.")
KV_CACHE_BLOCKS_USED = CACHE.gauge("kv_cache_blocks_used", "Blocks of the key/value cache that running sequences hold.")
KV_CACHE_BLOCKS_FREE = CACHE.gauge(
    "kv_cache_blocks_free", "Blocks of the key/value cache that nobody holds, with cached content or without."
)
KV_CACHE_BLOCKS_CACHED = CACHE.gauge(
    "kv_cache_blocks_cached", "Blocks of the key/value cache whose content a new prompt can find, held or free."
)
PREFIX_CACHE_QUERIES = CACHE.engine_counter(
    "prefix_cache_queries_total", "Prompt tokens that were looked up in the prefix cache.", vllm=True
)
PREFIX_CACHE_HITS = CACHE.engine_counter(
    "prefix_cache_hits_total", "Prompt tokens that the prefix cache held.", vllm=True
)

LIMITS = Section("How near the hardware's limits")

READ_BYTES = LIMITS.engine_counter(
    "estimated_read_bytes_per_gpu_total",
    "Bytes of weights and cache that each rank's steps had to read, computed from the batches.",
    vllm=True,
)
FLOPS = LIMITS.engine_counter(
    "estimated_flops_per_gpu_total",
    "Floating-point operations that each rank's steps had to do, computed from the batches.",
    vllm=True,
)
READ_BYTES_LIMIT = LIMITS.gauge(
    "limit_read_bytes_per_second",
    "Memory bandwidth of one device, as configured; absent where it is not.",
    merge="livemax",
)
FLOPS_LIMIT = LIMITS.gauge(
    "limit_flops_per_second",
    "Floating-point operations of one device a second, as configured; absent where it is not.",
    merge="livemax",
)
WEIGHT_BYTES = LIMITS.gauge(
    "rank_weight_bytes",
    "Bytes of weights that a rank holds, summed over the node's replicas.",
    labels=("model", "rank"),
)
GPU_MEMORY_USED = LIMITS.gauge(
    "gpu_memory_used_bytes", "Memory in use on a GPU, by whomever.", labels=("model", "gpu"), merge="livemax"
)
GPU_MEMORY_TOTAL = LIMITS.gauge("gpu_memory_total_bytes", "Memory of a GPU.", labels=("model", "gpu"), merge="livemax")

REPLICAS = Section("Replicas: starts and failures")

ENGINES_UP = REPLICAS.gauge(
    "engines_up",
    "Engines of the node that have loaded and not failed. 0 where there is none but an ingress, or one that starts.",
)
RECORDING_SINCE = REPLICAS.gauge(
    "recording_since_seconds",
    "When each living process began to record here, in seconds since 1970. Whoever shows a process's series shows this "
    "one: two targets with the same process count everything twice.",
    labels=("model", "recorder"),
    merge="livemax",
)
ENGINE_STARTS = REPLICAS.counter("engine_starts_total", "Engines that became ready.")
RANK_FAILURES = REPLICAS.counter(
    "rank_failures_total",
    "Engines that were given up, and then restarted, since a rank died, hung in a step or missed its heartbeat, that "
    "did not start, or whose replica was killed, as the OOM killer does: its successor counts that.",
    labels=("model", "cause"),
)
PROCESS_DEATHS = REPLICAS.counter(
    "process_deaths_total",
    "Processes that ended without a word: killed by the OOM killer, SIGKILL, or Serve after the time to drain. The "
    "node's exporter notices within seconds; a dead engine's successor counts it among the failures by cause as well.",
    labels=("model", "process"),
)
OUT_OF_MEMORY = REPLICAS.engine_counter(
    "engine_out_of_memory_total",
    "Requests ended with an error since a step ran out of memory: the newest of the step, each time.",
)
NOT_FINITE = REPLICAS.engine_counter(
    "engine_not_finite_total",
    "Requests ended with an error since the network computed NaN or infinity for them. Anything but 0 is a fault.",
)
TIME_TO_READY = REPLICAS.gauge(
    "engine_ready_seconds",
    "From the replica's start to its engine's first heartbeat, of the node's slowest living replica.",
    merge="livemax",
)
WEIGHT_LOADING = REPLICAS.gauge(
    "weight_loading_seconds",
    "Time the slowest rank took to load its weights and make its cache, of the node's slowest living replica.",
    merge="livemax",
)

SECTIONS = (CLIENTS, FRONT, TIMES, WASTE, USAGE, ATTRIBUTION, STEPS, CACHE, LIMITS, REPLICAS, EXPORTER)


def declared() -> list[AnySpec]:
    """Every metric, in the order of the documentation."""
    return [spec for section in SECTIONS for spec in section.specs]


def engine_counters() -> list[EngineCounterSpec]:
    """What the engine counts."""
    return [spec for spec in declared() if isinstance(spec, EngineCounterSpec)]
