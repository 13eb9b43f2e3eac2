"""`python -m monitoring.boards`: write the boards' JSON and `docs/metrics.md` anew."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from monitoring.boards.cluster import CLUSTER
from monitoring.boards.engine import ENGINE
from monitoring.boards.render import to_json
from monitoring.boards.service import SERVICE
from monitoring.reference import reference

ROOT = Path(__file__).parents[2]
BOARDS = (SERVICE, ENGINE, CLUSTER)
DECLARED_IN = "deployments.labels"
"""Whose `declared_labels` has the values of labels that are not the metrics' own: by name, as it stands above them."""


def files() -> dict[Path, str]:
    """What is generated: path below the repository's root -> text."""
    written = {Path("monitoring/dashboards") / f"{board.uid}.json": to_json(board) for board in BOARDS}
    return written | {Path("docs/metrics.md"): reference(import_module(DECLARED_IN).declared_labels())}


def main() -> None:
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
        print(path)


if __name__ == "__main__":
    main()
