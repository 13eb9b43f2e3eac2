"""A drill's Prometheus: started beside the server, and asked over its API."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmarks.running import running
from deployments.command.ports import free_port
from monitoring.panel_values import ask
from monitoring.prometheus import command, configuration

SCRAPED = {"starcoder", "ray"}
START_S = 90.0
ANSWER_S = 30.0

Points = list[tuple[float, float]]
"""(Unix seconds, value), of the samples that there are."""


@dataclass(frozen=True)
class Alert:
    """One that is active. active_at: Unix seconds since which its expression holds."""

    name: str
    severity: str
    state: Literal["pending", "firing"]
    active_at: float


@dataclass(frozen=True)
class Series:
    labels: Mapping[str, str]
    points: Points


class Observed(Protocol):
    """What a drill asks a Prometheus."""

    def alerts(self) -> list[Alert]:
        """Those that are active now. Raises OSError."""

    def curves(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        """The expression at each step. Raises OSError, and ValueError where it is refused."""


@dataclass(frozen=True)
class Prometheus:
    url: str

    def alerts(self) -> list[Alert]:
        return [
            Alert(
                found["labels"]["alertname"],
                found["labels"].get("severity", ""),
                found["state"],
                datetime.fromisoformat(_microseconds(found["activeAt"])).timestamp(),
            )
            for found in self._get("alerts")["alerts"]
        ]

    def curves(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        result = self._get("query_range", query=expression, start=start, end=end, step=step_s)["result"]
        return [Series(found["metric"], _points(found["values"])) for found in result]

    def _get(self, path: str, **parameters: str | float) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=ANSWER_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code >= 500:  # it is busy, not the query wrong
                raise
            raise ValueError(f"{parameters.get('query')}: {json.load(error)['error']}") from error


def _points(values: list[tuple[float, str]]) -> Points:
    return [(at, number) for at, text in values if not math.isnan(number := float(text))]


def _microseconds(time: str) -> str:
    """RFC 3339 with nanoseconds, as Go writes it, with as many digits as Python reads."""
    whole, dot, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}{dot}{fraction[:6]}+00:00"


@contextlib.contextmanager
def prometheus(home: Path, metrics_directory: Path, interval_s: float) -> Iterator[Prometheus]:
    """Once it has scraped the server that announces itself below `metrics_directory`, with the product's rules.

    Raises RuntimeError where it is not installed, or does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise RuntimeError("prometheus is not installed (Debian package prometheus)")
    file = home / "prometheus.yml"
    file.write_text(configuration(metrics_directory / "targets", interval_s))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = command(program, file, home / "data", port)
    with running(arguments, os.environ, lambda _: _scrapes(url), start_s=START_S):
        yield Prometheus(url)


def _scrapes(url: str) -> bool:
    try:
        up = ask(url, "count by (job) (up == 1)")
    except (OSError, ValueError):
        return False
    return {f"job={job}" for job in SCRAPED} <= {labels for labels, _ in up}
