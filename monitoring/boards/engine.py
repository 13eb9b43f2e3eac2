"""Board *Engine*: where a step's time goes, and what bounds it."""

from __future__ import annotations

from monitoring import front_metrics as f
from monitoring import metrics as m
from monitoring.boards import promql as q
from monitoring.boards.panel import Board, Panel, Row

NO_GPU = "needs a GPU"
NO_DRAFT_MODEL = "needs a draft model"
NO_TARGET = "needs a target of the inter-token latency, which on a CPU is off if not given"
OURS = '{application="starcoder", deployment="engine"}'
SHOWN = '{model=~"$model"}'

_STEPS = Row(
    "Steps",
    (
        Panel(
            "Steps",
            "Batches that the engines run a second.",
            ((q.rate(m.ENGINE_STEPS), "steps"),),
            "ops",
        ),
        Panel(
            "Step time",
            "Length of one step: a token of everybody who decodes, and a chunk of a prompt.",
            tuple((q.quantile(p, m.STEP_TIME), f"p{p * 100:g}") for p in (0.5, 0.9, 0.99)),
            "s",
        ),
        Panel(
            "Where a step's time goes",
            "Seconds a second. A healthy engine spends nearly all in forward; schedule and other are our overhead.",
            ((q.rate(m.STEP_PHASE_TIME, "phase"), "{{phase}}"),),
            "percentunit",
            stacked=True,
        ),
        Panel(
            "Batch size",
            "Sequences in a step, on average and in the largest tenth.",
            ((q.mean(m.STEP_SEQUENCES), "mean"), (q.quantile(0.9, m.STEP_SEQUENCES), "p90")),
            "short",
        ),
        Panel(
            "Tokens in a step",
            "Prompt tokens, decoded tokens and drafts.",
            ((q.mean(m.STEP_TOKENS), "mean"), (q.quantile(0.9, m.STEP_TOKENS), "p90")),
            "short",
        ),
        Panel(
            "Steps cut short for those who decode",
            "Share of the steps that compute less of prompts, to keep to the target of the inter-token latency.",
            ((q.ratio(q.rate(m.PACED_STEPS), q.rate(m.ENGINE_STEPS)), "cut short"),),
            "percentunit",
        ),
        Panel(
            "Error of expected step times",
            "Of steps with prompts, mean and absolute. Above a quarter for long, the target is not kept.",
            ((q.ratio(q.rate(m.STEP_TIME_ERROR), q.rate(m.EXPECTED_STEP_TIME)), "error"),),
            "percentunit",
            needs=NO_TARGET,
        ),
        Panel(
            "Running and waiting",
            "Sequences in the batches, and those without a place in one.",
            ((q.value(m.REQUESTS_RUNNING), "running"), (q.value(m.REQUESTS_WAITING), "waiting")),
            "short",
        ),
    ),
)

_REQUESTS = Row(
    "A request's time",
    (
        Panel(
            "Queue, prefill, decode",
            "The 90th percentile of each.",
            (
                (q.quantile(0.9, m.REQUEST_QUEUE_TIME), "queue"),
                (q.quantile(0.9, m.REQUEST_PREFILL_TIME), "prefill"),
                (q.quantile(0.9, m.REQUEST_DECODE_TIME), "decode"),
            ),
            "s",
        ),
        Panel(
            "Latency at the replica",
            "From a request's arrival at a replica to its end, and to its first token: the 90th percentile. The board "
            "Service has what clients wait.",
            (
                (q.quantile(0.9, m.E2E_REQUEST_LATENCY), "request"),
                (q.quantile(0.9, m.TIME_TO_FIRST_TOKEN), "first token"),
            ),
            "s",
        ),
        Panel(
            "Queue by class of service",
            "The 90th percentile: interactive work goes before standard, and that before batch, which may take long.",
            ((q.quantile(0.9, m.CLASS_QUEUE_TIME, "service_class"), "{{service_class}}"),),
            "s",
        ),
        Panel(
            "Age of the queue",
            "Of the sequence that has waited longest for its first step, by class. The sharpest sign of overload, but "
            "for batch, which may wait.",
            ((q.value(m.OLDEST_WAITING, "instance", "service_class", how="max"), "{{instance}} {{service_class}}"),),
            "s",
            thresholds=((1.0, "orange"), (5.0, "red")),
        ),
        Panel(
            "Tokens of a request",
            "Mean length of prompts and of completions.",
            ((q.mean(m.REQUEST_PROMPT_TOKENS), "prompt"), (q.mean(m.REQUEST_GENERATION_TOKENS), "completion")),
            "short",
        ),
    ),
)

_CACHE = Row(
    "Key/value cache",
    (
        Panel(
            "Cache in use",
            "Share that running sequences hold, in each node's fullest replica. Above 95% sequences are preempted.",
            ((q.value(m.KV_CACHE_USAGE, "instance", how="max"), "{{instance}}"),),
            "percentunit",
            thresholds=((0.8, "orange"), (0.95, "red")),
        ),
        Panel(
            "Blocks",
            "All, held by running sequences, held by nobody, and those whose content a new prompt can find.",
            (
                (q.value(m.KV_CACHE_BLOCKS), "all"),
                (q.value(m.KV_CACHE_BLOCKS_USED), "used"),
                (q.value(m.KV_CACHE_BLOCKS_FREE), "free"),
                (q.value(m.KV_CACHE_BLOCKS_CACHED), "cached"),
            ),
            "short",
        ),
        Panel(
            "Prefix-cache hits",
            "Prompt tokens found in the cache, of those looked up. People who type hit far above half.",
            ((q.ratio(q.rate(m.PREFIX_CACHE_HITS), q.rate(m.PREFIX_CACHE_QUERIES)), "hits"),),
            "percentunit",
        ),
        Panel(
            "Prefix-cache tokens",
            "Prompt tokens looked up, and found, a second.",
            ((q.rate(m.PREFIX_CACHE_QUERIES), "looked up"), (q.rate(m.PREFIX_CACHE_HITS), "found")),
            "short",
        ),
        Panel(
            "Preemptions",
            "Sequences that lost their blocks to others, a second. Steady ones: the cache is too small for the load.",
            ((q.rate(m.PREEMPTIONS), "preemptions"),),
            "short",
            thresholds=((0.1, "orange"), (1.0, "red")),
        ),
        Panel(
            "Preemptions for each that ends",
            "By node. At 0.1 for a quarter of an hour somebody is told: answers pause, and are computed again.",
            (
                (
                    f"{q.rate(m.PREEMPTIONS, 'instance')} / ({q.rate(m.REQUEST_SUCCESS, 'instance')} > 0)",
                    "{{instance}}",
                ),
            ),
            "short",
            thresholds=((0.02, "orange"), (0.1, "red")),
        ),
        Panel(
            "Computed for nobody",
            "Of the tokens computed but those of new prompts: generated for requests that were superseded or "
            "cancelled, drafts that were wrong, and what was computed again after a preemption; on all nodes.",
            ((f"max by (cause) (starcoder:wasted:share_10m{SHOWN})", "{{cause}}"),),
            "percentunit",
            thresholds=((0.4, "orange"), (0.6, "red")),
            stacked=True,
        ),
    ),
)

_ROUTING = Row(
    "Routing",
    (
        Panel(
            "Why requests go where they go",
            "Requests a second. passed_over: another engine holds more of the prompt, or has the session, but is too "
            "busy or silent. Much of it: engines are uneven, or the router is broken.",
            ((q.rate(f.ROUTING_DECISIONS, "reason"), "{{reason}}"),),
            "reqps",
            stacked=True,
        ),
        Panel(
            "Prefixes known, expected, found",
            "Prompt tokens a second: that some engine should hold, that the one should hold to which the request went, "
            "and that engines have found. All low: there is nothing to hit.",
            (
                (q.rate(f.KNOWN_PREFIX_TOKENS), "known"),
                (q.rate(f.EXPECTED_PREFIX_TOKENS), "expected"),
                (q.rate(m.PREFIX_CACHE_HITS), "found"),
            ),
            "short",
        ),
        Panel(
            "What becomes of known prefixes",
            "Of what some engine should hold, what the chosen one should: low where requests are sent elsewhere. Of "
            "that, what the engines have found: low where caches forget too soon.",
            (
                (q.ratio(q.rate(f.EXPECTED_PREFIX_TOKENS), q.rate(f.KNOWN_PREFIX_TOKENS)), "expected of known"),
                (q.ratio(q.rate(m.PREFIX_CACHE_HITS), q.rate(f.EXPECTED_PREFIX_TOKENS)), "found of expected"),
            ),
            "percentunit",
        ),
        Panel(
            "Requests by engine",
            "Calls of each replica a second, as Ray Serve counts them. One without any gets no work, or does none.",
            ((f"sum by (replica) (rate(ray_serve_deployment_request_counter_total{OURS}[{q.RATE}]))", "{{replica}}"),),
            "reqps",
        ),
        Panel(
            "Open requests by engine",
            "Calls that each replica has open. Engines that are far apart are sent work unevenly.",
            ((f"sum by (replica) (ray_serve_replica_processing_queries{OURS})", "{{replica}}"),),
            "short",
        ),
    ),
)

_NODES = Row(
    "By node",
    (
        Panel(
            "Tokens by node",
            "Tokens that the engines of each node generate a second.",
            ((q.rate(m.GENERATION_TOKENS, "instance"), "{{instance}}"),),
            "short",
        ),
        Panel(
            "Running and waiting by node",
            "Sequences in the batches of each node's engines, and those without a place in one.",
            (
                (q.value(m.REQUESTS_RUNNING, "instance"), "{{instance}} running"),
                (q.value(m.REQUESTS_WAITING, "instance"), "{{instance}} waiting"),
            ),
            "short",
        ),
        Panel(
            "Step time by node",
            "The 90th percentile. A node that is slower than others of its kind is throttled, or shared.",
            ((q.quantile(0.9, m.STEP_TIME, "instance"), "{{instance}}"),),
            "s",
        ),
        Panel(
            "Prefix-cache hits by node",
            "Prompt tokens found in the caches of each node's engines, of those looked up there.",
            (
                (
                    q.ratio(q.rate(m.PREFIX_CACHE_HITS, "instance"), q.rate(m.PREFIX_CACHE_QUERIES, "instance")),
                    "{{instance}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Preemptions by node",
            "Sequences that lost their blocks to others, a second, on each node.",
            ((q.rate(m.PREEMPTIONS, "instance"), "{{instance}}"),),
            "short",
        ),
    ),
)

_SPECULATION = Row(
    "Speculation",
    (
        Panel(
            "Drafted and accepted",
            "Tokens a second (setting speculative-tokens).",
            ((q.rate(m.DRAFT_TOKENS), "drafted"), (q.rate(m.ACCEPTED_DRAFT_TOKENS), "accepted")),
            "short",
        ),
        Panel(
            "Accepted share",
            "Of the tokens drafted. What the others cost is beside it: they are computed for nothing.",
            ((q.ratio(q.rate(m.ACCEPTED_DRAFT_TOKENS), q.rate(m.DRAFT_TOKENS)), "accepted"),),
            "percentunit",
        ),
        Panel(
            "Accepted share by who drafts",
            "Of the tokens looked up, and of those that a draft model drafts (setting draft-model).",
            (
                (
                    q.ratio(
                        f"({q.rate(m.ACCEPTED_DRAFT_TOKENS)} - {q.rate(m.ACCEPTED_MODEL_DRAFT_TOKENS)})",
                        f"({q.rate(m.DRAFT_TOKENS)} - {q.rate(m.MODEL_DRAFT_TOKENS)})",
                    ),
                    "lookup",
                ),
                (q.ratio(q.rate(m.ACCEPTED_MODEL_DRAFT_TOKENS), q.rate(m.MODEL_DRAFT_TOKENS)), "draft model"),
            ),
            "percentunit",
            needs=NO_DRAFT_MODEL,
        ),
        Panel(
            "Time of the draft model",
            "Seconds a second that its passes take, those with which it catches up with prompts included.",
            ((q.rate(m.DRAFT_MODEL_TIME), "draft model"),),
            "s",
        ),
        Panel(
            "Rejected drafts",
            "Drafted tokens that were wrong, of all tokens that steps compute. On a GPU with room they cost little.",
            (
                (
                    f"({q.rate(m.DRAFT_TOKENS)} - {q.rate(m.ACCEPTED_DRAFT_TOKENS)})"
                    f" / sum (rate({m.STEP_TOKENS.sum}{q.selector(m.STEP_TOKENS)}[{q.RATE}]))",
                    "rejected",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "What speculation is worth",
            "Time that steps without drafts would have taken for the tokens of those with drafts, of what these took, "
            "a draft model's passes included, those to catch up with prompts as well. "
            "Below 1 speculation does harm: set speculative-tokens to 0.",
            ((q.ratio(q.rate(m.PLAIN_STEP_TIME), q.rate(m.DRAFTED_STEP_TIME)), "worth"),),
            "x",
            thresholds=((0.0, "red"), (1.0, "green")),
        ),
        Panel(
            "Time won by speculation",
            "Seconds a second that the engines would have needed more without drafts, or, below 0, less.",
            ((f"{q.rate(m.PLAIN_STEP_TIME)} - {q.rate(m.DRAFTED_STEP_TIME)}", "won"),),
            "s",
        ),
    ),
)

_LIMITS = Row(
    "How near the hardware's limits",
    (
        Panel(
            "Bytes read",
            "Weights and cache that each rank's steps read a second, computed from the batches; per running engine.",
            ((f"{q.rate(m.READ_BYTES)} / {q.value(m.ENGINES_UP)}", "per rank"),),
            "Bps",
        ),
        Panel(
            "Operations",
            "Floating-point operations of each rank a second, computed from the batches; per running engine.",
            ((f"{q.rate(m.FLOPS)} / {q.value(m.ENGINES_UP)}", "per rank"),),
            "flops",
        ),
        Panel(
            "Share of the limits",
            "Of the settings device-bandwidth and device-flops, while steps run. Decode is bound by the first, "
            "prefill by the second.",
            (
                (
                    f"{q.rate(m.READ_BYTES)} / on () sum (rate({m.STEP_TIME.sum}{q.selector(m.STEP_TIME)}[{q.RATE}]))"
                    f" / on () {q.value(m.READ_BYTES_LIMIT, how='max')}",
                    "bandwidth",
                ),
                (
                    f"{q.rate(m.FLOPS)} / on () sum (rate({m.STEP_TIME.sum}{q.selector(m.STEP_TIME)}[{q.RATE}]))"
                    f" / on () {q.value(m.FLOPS_LIMIT, how='max')}",
                    "arithmetic",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Weights by rank",
            "Bytes that each rank holds, all replicas together.",
            ((q.value(m.WEIGHT_BYTES, "rank"), "rank {{rank}}"),),
            "bytes",
        ),
        Panel(
            "GPU memory",
            "In use, of all, by GPU.",
            (
                (q.value(m.GPU_MEMORY_USED, "instance", "gpu", how="max"), "{{gpu}} used"),
                (q.value(m.GPU_MEMORY_TOTAL, "instance", "gpu", how="max"), "{{gpu}} all"),
            ),
            "bytes",
            needs=NO_GPU,
        ),
    ),
)

ENGINE = Board(
    "starcoder-engine",
    "StarCoder: Engine",
    "Where time goes inside the engines: steps, batches, cache, speculation, and the limits of the hardware.",
    (_STEPS, _REQUESTS, _CACHE, _ROUTING, _NODES, _SPECULATION, _LIMITS),
    {"model": m.ENGINE_STEPS.full_name, "team": m.REQUEST_QUEUE_TIME.count, "instance": m.ENGINE_STEPS.full_name},
)
