"""`docs/metrics.md`, made from the declarations."""

from __future__ import annotations

from monitoring.labels import DeclaredLabels, documented
from monitoring.metrics import SECTIONS, declared
from monitoring.specs import AnySpec, GaugeSpec, HistogramSpec, MergeMode

_MERGED: dict[MergeMode, str] = {"livesum": "summed", "livemax": "largest", "livemin": "smallest"}

_HEAD = """\
<!-- Made from monitoring/metrics.py and front_metrics.py by `make boards`; edit that. -->

# Metrics

`/metrics` on the server, and `--metrics-port` on each node, show these in Prometheus' text format, merged exactly over
the node's processes; an exporter does so every second, and a scrape waits for nothing. A process that dies takes its
gauges along; what it counted stays. Names marked *vLLM* are those
of vLLM's v1 engine with `starcoder_` for `vllm:`, and mean the same. Ray's own series (`ray_serve_*` and others) are
at the port Ray exports.

The boards in `monitoring/dashboards/` and the alerts in `monitoring/rules/` use them; [runbook.md](runbook.md) says
what to do when one fires.
"""


def reference(labels: DeclaredLabels) -> str:
    """The whole document. labels: the values that stand above the metrics."""
    parts = [_HEAD]
    for section in SECTIONS:
        parts.append(f"\n## {section.title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
        parts += [_line(spec) for spec in section.specs]
    parts.append("\n## Buckets\n\nUpper bounds; `+Inf` follows.\n\n")
    for spec in declared():
        if isinstance(spec, HistogramSpec):
            parts.append(f"- `{spec.full_name}`: {', '.join(f'{bound:g}' for bound in spec.buckets)}\n")
    parts.append("\n## Labels\n\nBounded by construction: any other value is counted as the last one of its set.\n\n")
    parts += [f"- `{label}`: {values}\n" for label, values in documented(labels).items()]
    return "".join(parts)


def _line(spec: AnySpec) -> str:
    kind = spec.kind
    if isinstance(spec, GaugeSpec):
        kind += f", {_MERGED[spec.merge]}"
    vllm = " *vLLM*" if spec.vllm else ""
    return f"| `{spec.full_name}` | {kind} | {', '.join(spec.labels)} | {spec.documentation}{vllm} |\n"
