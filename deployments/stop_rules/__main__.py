"""`python -m deployments.stop_rules`: write `docs/stop-rules.md` anew."""

from __future__ import annotations

from pathlib import Path

from deployments.stop_rules.reference import reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "stop-rules.md"

if __name__ == "__main__":
    DOCUMENT.write_text(reference(), encoding="utf-8")
    print(DOCUMENT)
