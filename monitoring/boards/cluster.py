"""Board *Cluster*: replicas, scaling, failures, and Ray Serve's own queues."""

from __future__ import annotations

from monitoring import front_metrics as f
from monitoring import metrics as m
from monitoring.boards import promql as q
from monitoring.boards.panel import Board, Panel, Row

NO_AUTOSCALING = "needs autoscaling (max-replicas above min-replicas)"
NO_GPU = "needs a GPU"
OURS = '{application="starcoder"}'
ENGINE = '{application="starcoder", deployment="engine"}'
PROXY_ERRORS = '{application="starcoder", method="POST", status_code=~"5.."}'
NO_PROXY_ERROR = "needs an answer with 5xx"


def of_all_teams(**matchers: str) -> str:
    """Requests a second that have ended: this board knows no teams."""
    return f"sum (rate({m.HTTP_REQUESTS.full_name}{q.selector(f.REQUESTS_RECEIVED, **matchers)}[{q.RATE}]))"


_REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Engines up",
            "Engines that have loaded and not failed, by node.",
            ((q.value(m.ENGINES_UP, "instance"), "{{instance}}"),),
            "short",
            stacked=True,
        ),
        Panel(
            "Healthy replicas",
            "What Ray Serve's health checks say, by deployment.",
            (
                (
                    f"sum by (deployment) (max by (deployment, replica) (ray_serve_deployment_replica_healthy{OURS}))",
                    "{{deployment}}",
                ),
            ),
            "short",
        ),
        Panel(
            "Desired and actual engines",
            "What the autoscaler wants, and what is there. A gap that stays is a cluster without room.",
            (
                (f"max (ray_serve_autoscaling_target_replicas{ENGINE})", "target"),
                (f"max (ray_serve_autoscaling_desired_replicas{ENGINE})", "desired"),
                (q.value(m.ENGINES_UP), "up"),
            ),
            "short",
            needs=NO_AUTOSCALING,
        ),
        Panel(
            "Starts and failures",
            "Engines that became ready, engines that were given up, killed or did not start, by cause, processes that "
            "were killed, requests that were ended since memory ran out or their logits were no numbers, and kernels "
            "that were compiled while a step waited; in the last hour.",
            (
                (q.increase(m.ENGINE_STARTS, window="1h"), "started"),
                (q.increase(m.RANK_FAILURES, "cause", window="1h"), "failed: {{cause}}"),
                (q.increase(m.PROCESS_DEATHS, "process", window="1h"), "killed: {{process}}"),
                (q.increase(m.OUT_OF_MEMORY, window="1h"), "requests out of memory"),
                (q.increase(m.NOT_FINITE, window="1h"), "requests without numbers"),
                (q.increase(m.LATE_COMPILATIONS, window="1h"), "kernels compiled late"),
            ),
            "short",
            thresholds=((1.0, "orange"), (3.0, "red")),
        ),
        Panel(
            "Requests without an engine",
            "Requests that wait since there is none; those that another one went on with after theirs had died, and "
            "those that failed since none did, in the last hour.",
            (
                (q.value(f.WAITING_FOR_ENGINE), "waiting"),
                (q.increase(f.REQUESTS_RESUMED, window="1h"), "resumed"),
                (q.increase(f.REQUESTS_LOST, window="1h"), "lost"),
            ),
            "short",
            thresholds=((1.0, "orange"), (10.0, "red")),
        ),
        Panel(
            "Time to ready",
            "From a replica's start to its engine's first heartbeat, and the part that loads weights; the slowest one.",
            (
                (q.value(m.TIME_TO_READY, "instance", how="max"), "{{instance}} ready"),
                (q.value(m.WEIGHT_LOADING, "instance", how="max"), "{{instance}} weights"),
            ),
            "s",
        ),
        Panel(
            "Exporters",
            "Whether Prometheus reaches each node's exporter (1) or not (0).",
            (('up{job=~".*starcoder.*"}', "{{instance}}"),),
            "short",
            thresholds=((0.0, "red"), (1.0, "green")),
        ),
        Panel(
            "Processes by target",
            "Processes that each exporter speaks for, and the targets behind which each of them is: more than one, and "
            "all counts are too large.",
            (
                (f"count by (instance) ({m.RECORDING_SINCE.full_name}{q.selector(m.RECORDING_SINCE)})", "{{instance}}"),
                (
                    f"max (count by (model, recorder) ({m.RECORDING_SINCE.full_name}{q.selector(m.RECORDING_SINCE)}))",
                    "targets of a process",
                ),
            ),
            "short",
        ),
        Panel(
            "Age of the metrics",
            "Since each node's exporter has collected what it shows. It does so every second, whoever asks; more than "
            "some scrapes is an exporter that gets no processor.",
            ((q.age(f.COLLECTED_AT, "instance", how="min"), "{{instance}}"),),
            "s",
            thresholds=((15.0, "orange"), (60.0, "red")),
        ),
    ),
)

_FRONT = Row(
    "In front of the engines",
    (
        Panel(
            "What a client sees",
            "Whether the server answers at its public port (1) or not (0): each node's exporter asks every 5 s.",
            ((q.value(f.PROBE_SUCCESS, "instance", how="min"), "{{instance}}"),),
            "short",
            thresholds=((0.0, "red"), (1.0, "green")),
        ),
        Panel(
            "How long it waits",
            "For the answer of an ingress that does nothing else for it. Above a second the ingresses have no time.",
            ((q.value(f.PROBE_TIME, "instance", how="max"), "{{instance}}"),),
            "s",
            thresholds=((1.0, "orange"), (5.0, "red")),
        ),
        Panel(
            "Ingresses",
            "Processes that live, by node. One that hangs is among them: see the next.",
            ((q.value(f.INGRESSES_UP, "instance"), "{{instance}}"),),
            "short",
            stacked=True,
        ),
        Panel(
            "Standstill of ingresses",
            "Since an event loop turned last: the one that has stood still longest, and the newest, of each node. "
            "Above 20 s the first one hangs; where the second does, all do.",
            (
                (q.age(f.OLDEST_TURN, "instance", how="min"), "{{instance}} longest"),
                (q.age(f.NEWEST_TURN, "instance", how="max"), "{{instance}} shortest"),
            ),
            "s",
            thresholds=((5.0, "orange"), (20.0, "red")),
        ),
        Panel(
            "Received and ended",
            "Requests for work a second that come to the ingresses and that end, and those that are open.",
            (
                (q.rate(f.REQUESTS_RECEIVED), "received"),
                (of_all_teams(), "ended"),
                (q.value(f.REQUESTS_OPEN), "open"),
            ),
            "short",
        ),
        Panel(
            "Errors of the proxies",
            "Requests a second that the proxies answered with 5xx, and those that the ingresses know to have failed. "
            "More of the first: clients get errors of which no ingress knows.",
            (
                (f"sum (rate(ray_serve_num_http_requests_total{PROXY_ERRORS}[{q.RATE}]))", "at the proxies"),
                (of_all_teams(outcome="failed"), "at the ingresses"),
            ),
            "reqps",
            needs=NO_PROXY_ERROR,
        ),
    ),
)

_SERVE = Row(
    "Ray Serve",
    (
        Panel(
            "Serve's queues",
            "Requests that wait in a handle for a replica. Ours wait in the engine, so these should stay near 0.",
            ((f"sum by (deployment) (ray_serve_deployment_queued_queries{OURS})", "{{deployment}}"),),
            "short",
            thresholds=((10.0, "orange"), (100.0, "red")),
        ),
        Panel(
            "Ongoing requests",
            "Requests in each deployment's replicas.",
            ((f"sum by (deployment) (ray_serve_replica_processing_queries{OURS})", "{{deployment}}"),),
            "short",
        ),
        Panel(
            "Requests at the proxies",
            "HTTP requests a second, by status.",
            ((f"sum by (status_code) (rate(ray_serve_num_http_requests_total{OURS}[{q.RATE}]))", "{{status_code}}"),),
            "reqps",
        ),
        Panel(
            "Connections refused",
            "Connections a second that the proxies refused before they were a request, or cut, by why. "
            "too_many_connections: a crowd, or somebody who keeps them.",
            ((q.rate(m.CONNECTIONS_REFUSED, "reason"), "{{reason}}"),),
            "short",
        ),
        Panel(
            "Controller's loop",
            "One round of Serve's controller. It scales and replaces late when this takes seconds.",
            (("max (ray_serve_controller_control_loop_duration_s)", "loop"),),
            "s",
            thresholds=((2.0, "orange"), (10.0, "red")),
        ),
    ),
)

_MACHINES = Row(
    "Machines",
    (
        Panel(
            "Processors",
            "Use of each node's processors, as Ray sees it.",
            (("avg by (ip) (ray_node_cpu_utilization)", "{{ip}}"),),
            "percent",
        ),
        Panel(
            "Memory",
            "In use on each node, and all of it.",
            (("max by (ip) (ray_node_mem_used)", "{{ip}} used"), ("max by (ip) (ray_node_mem_total)", "{{ip}} all")),
            "bytes",
        ),
        Panel(
            "GPUs",
            "Utilisation of each GPU, as Ray sees it.",
            (("avg by (ip, GpuIndex) (ray_node_gpus_utilization)", "{{ip}} GPU {{GpuIndex}}"),),
            "percent",
            needs=NO_GPU,
        ),
        Panel(
            "Nodes",
            "Nodes that are alive: as Ray's autoscaler reports, else those whose Ray answers a scrape.",
            (('max (sum by (instance) (ray_cluster_active_nodes)) or count (up{job="ray"} == 1)', "active"),),
            "short",
            kind="stat",
        ),
    ),
)

CLUSTER = Board(
    "starcoder-cluster",
    "StarCoder: Cluster",
    "Replicas, scaling, failures, nodes, and Ray Serve's own queues.",
    (_REPLICAS, _FRONT, _SERVE, _MACHINES),
    {"model": m.ENGINES_UP.full_name, "instance": m.ENGINES_UP.full_name},
)
