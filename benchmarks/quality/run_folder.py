"""A folder that a run fills as it goes: `settings.json` says what is asked, and lines of JSON are only ever added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality.served import Served

SETTINGS = "settings.json"


class RunFolder:
    """It is made when the run begins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def served(self) -> Served:
        """Whose answers these are; old folders do not say where. Raises ValueError where nothing was asked yet."""
        if (settings := self._settings()) is None:
            raise ValueError(f"{self.directory} has no answers")
        told = {name: settings.get(name) for name in ("weights", "ours")}
        return Served(settings.get("url", ""), str(settings["model"]), **told)

    def _settings(self) -> dict[str, Any] | None:
        path = self.directory / SETTINGS
        return dict(json.loads(path.read_text())) if path.exists() else None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Raises ValueError where the folder has the answers of other settings; a run that got none left nothing.

        What one of the two does not know is no difference: a server may not tell, or the folder be an old one.
        """
        if (before := self._settings()) is None or not any(self.directory.glob("*.jsonl")):
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / SETTINGS).write_text(json.dumps(dict(settings), indent=1) + "\n")
            return
        if changed := [
            f"{name}: {before[name]}, now {value}"
            for name, value in settings.items()
            if name in before and before[name] != value
        ]:
            raise ValueError(
                f"{self.directory} has answers of another run ({'; '.join(changed)}); --run names another folder"
            )

    def read(self, name: str) -> list[dict[str, Any]]:
        """Whole lines; what a run that was killed had half written is cut off."""
        path = self.directory / name
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.directory / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
