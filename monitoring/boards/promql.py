"""PromQL over declared metrics, so that no board can name one that does not exist."""

from __future__ import annotations

from monitoring.specs import CounterSpec, GaugeSpec, HistogramSpec, MetricSpec, PageGaugeSpec

RATE = "$__rate_interval"
"""Grafana's own choice: at least four scrapes."""


def selector(spec: MetricSpec, **matchers: str) -> str:
    """`{...}` for the board's variables that the metric has as labels, and for `matchers` (label: pattern)."""
    parts = ['model=~"$model"'] if "model" in spec.labels else []
    if "team" in spec.labels:
        parts.append('team=~"$team"')
    parts.append('instance=~"$instance"')
    parts += [f'{label}=~"{pattern}"' for label, pattern in matchers.items()]
    return "{" + ", ".join(parts) + "}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def rate(spec: CounterSpec, *by: str, **matchers: str) -> str:
    """A second, summed."""
    return f"sum{_by(by)} (rate({spec.full_name}{selector(spec, **matchers)}[{RATE}]))"


def increase(spec: CounterSpec, *by: str, window: str = "$__range") -> str:
    return f"sum{_by(by)} (increase({spec.full_name}{selector(spec)}[{window}]))"


def quantile(q: float, spec: HistogramSpec, *by: str) -> str:
    return f"histogram_quantile({q}, sum by ({', '.join(('le', *by))}) (rate({spec.bucket}{selector(spec)}[{RATE}])))"


def mean(spec: HistogramSpec, *by: str) -> str:
    where = selector(spec)
    return f"sum{_by(by)} (rate({spec.sum}{where}[{RATE}])) / sum{_by(by)} (rate({spec.count}{where}[{RATE}]))"


def share_below(spec: HistogramSpec, bound: float, *by: str) -> str:
    """Share of observations at or below a bucket's bound. Raises ValueError where there is no such bucket."""
    if bound not in spec.buckets:
        raise ValueError(f"{spec.name} has no bucket at {bound}")
    below = f"sum{_by(by)} (rate({spec.bucket}{selector(spec, le=str(bound))}[{RATE}]))"
    return f"{below} / sum{_by(by)} (rate({spec.count}{selector(spec)}[{RATE}]))"


def value(spec: GaugeSpec | PageGaugeSpec, *by: str, how: str = "sum") -> str:
    return f"{how}{_by(by)} ({spec.full_name}{selector(spec)})"


def ratio(above: str, below: str) -> str:
    """Nothing where there is nothing to divide by: neither a server that is idle nor one that is not seen is at 0."""
    return f"({above}) / ({below} > 0)"


def age(spec: GaugeSpec | PageGaugeSpec, *by: str, how: str) -> str:
    """Seconds since a time in Unix seconds. how: `min` of the time is the oldest, `max` the newest."""
    return f"time() - {value(spec, *by, how=how)}"
