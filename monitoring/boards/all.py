"""All boards, and the files that they are written to."""

from __future__ import annotations

from pathlib import Path

from monitoring.boards.cluster import CLUSTER
from monitoring.boards.engine import ENGINE
from monitoring.boards.render import to_json
from monitoring.boards.service import SERVICE

BOARDS = (SERVICE, ENGINE, CLUSTER)


def dashboards() -> dict[Path, str]:
    """Path below the repository's root -> JSON for Grafana."""
    return {Path("monitoring/dashboards") / f"{board.uid}.json": to_json(board) for board in BOARDS}
