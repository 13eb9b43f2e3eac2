"""`python -m deployments.command.boards` (`make boards`): write what is made from declarations anew.

The boards, the documents of the metrics and of the stop rules, and clients' configurations. Needs the extra `dev`.
"""

from __future__ import annotations

from pathlib import Path

from deployments.clients.reference import reference as with_configurations
from deployments.labels import declared_labels
from deployments.stop_rules.reference import reference as stop_rules_reference
from monitoring.boards.all import dashboards
from monitoring.reference import reference as metrics_reference

ROOT = Path(__file__).parents[2]


def files() -> dict[Path, str]:
    """What is generated: path below the repository's root -> text."""
    clients = Path("docs/clients.md")
    return dashboards() | {
        clients: with_configurations((ROOT / clients).read_text(encoding="utf-8")),
        Path("docs/metrics.md"): metrics_reference(declared_labels()),
        Path("docs/stop-rules.md"): stop_rules_reference(),
    }


def main() -> None:
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
