"""A Prometheus beside a local server: its configuration, and `python -m monitoring.prometheus` (`make monitor`).

Targets are read from the directory in which the exporters announce themselves, so no port is written down anywhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RULES = Path(__file__).parent / "rules"
DEFAULT_PORT = 9090


def configuration(targets: Path, interval_s: float = 5.0) -> str:
    """Prometheus' YAML: scrape what is announced in `targets`, evaluate the recording rules and the alerts."""
    return f"""\
{_head(RULES, interval_s)}\
  - job_name: starcoder
    file_sd_configs:
      - files: ["{targets.absolute()}/*.json"]
        refresh_interval: {interval_s:g}s
"""


def configuration_elsewhere(exporter: str, rules: Path, interval_s: float = 5.0) -> str:
    """The same for a Prometheus of another machine or container, which has the rules in `rules`.

    exporter: host:port of the node's. It passes on what Ray shows, which is on loopback there.
    """
    jobs = {"starcoder": "/metrics", "ray": "/ray"}
    return _head(rules, interval_s) + "".join(
        f"""\
  - job_name: {job}
    metrics_path: {path}
    static_configs:
      - targets: ["{exporter}"]
"""
        for job, path in jobs.items()
    )


def _head(rules: Path, interval_s: float) -> str:
    return f"""\
global:
  scrape_interval: {interval_s:g}s
  scrape_timeout: {interval_s:g}s
  evaluation_interval: {interval_s:g}s
rule_files:
  - {rules}/*.yaml
scrape_configs:
"""


def command(program: str, configuration_file: Path, data: Path, port: int) -> list[str]:
    """Prometheus on loopback."""
    return [
        program,
        f"--config.file={configuration_file}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monitoring.prometheus", description=__doc__)
    parser.add_argument("--metrics-dir", type=Path, required=True, help="the server's metrics-dir")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of Prometheus (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run Prometheus in place of this process until it is interrupted. Its data is kept in a temporary directory."""
    options = parser().parse_args(arguments)
    program = shutil.which("prometheus")
    if program is None:
        parser().exit(1, "prometheus is not installed (Debian package prometheus)\n")
    home = Path(tempfile.mkdtemp(prefix="starcoder-prometheus-"))
    file = home / "prometheus.yml"
    targets = options.metrics_dir / "targets"
    targets.mkdir(parents=True, exist_ok=True)
    file.write_text(configuration(targets))
    print(f"Prometheus: http://127.0.0.1:{options.port} (data in {home})", flush=True)
    print("Boards: import monitoring/dashboards/*.json into Grafana.", flush=True)
    sys.stdout.flush()
    os.execv(program, command(program, file, home / "data", options.port))


if __name__ == "__main__":
    main()
