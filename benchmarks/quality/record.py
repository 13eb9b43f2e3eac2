"""What a run has so far, in a folder: whoever ends it may begin it again, and nothing is asked or executed twice.

`settings.json` says what is asked, `samples.jsonl` has the answers (`task_id`, `completion`: as others' tools name
them), `verdicts.jsonl` what became of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.sandbox.judge import Verdict

Key = tuple[str, int]
"""Problem and seed."""


@dataclass(frozen=True)
class Settings:
    """What makes answers what they are: those of other settings are others."""

    benchmark: str
    model: str
    sha256: str
    seed: int
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Sample:
    task_id: str
    seed: int
    completion: str

    @property
    def key(self) -> Key:
        return self.task_id, self.seed


class Record:
    """samples, verdicts: by problem and seed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.samples = {(line["task_id"], line["seed"]): Sample(**line) for line in _read(directory / "samples.jsonl")}
        self.verdicts = {
            (line["task_id"], line["seed"]): Verdict(line["passed"], line["why"])
            for line in _read(directory / "verdicts.jsonl")
        }

    @property
    def model(self) -> str:
        """Whose answers these are. Raises ValueError where nothing was asked yet."""
        if (settings := self._settings()) is None:
            raise ValueError(f"{self._directory} has no answers")
        return settings.model

    def _settings(self) -> Settings | None:
        path = self._directory / "settings.json"
        return Settings(**json.loads(path.read_text())) if path.exists() else None

    def begin(self, settings: Settings) -> None:
        """Raises ValueError where the folder has the answers of other settings."""
        if (old := self._settings()) is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / "settings.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")
            return
        before, now = asdict(old), asdict(settings)
        if changed := [f"{name}: {before[name]}, now {now[name]}" for name in now if before[name] != now[name]]:
            raise ValueError(
                f"{self._directory} has answers of another run ({'; '.join(changed)}); --run names another folder"
            )

    def add_samples(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.samples[sample.key] = sample
            _append(self._directory / "samples.jsonl", asdict(sample))

    def add_verdict(self, key: Key, verdict: Verdict) -> None:
        self.verdicts[key] = verdict
        task_id, seed = key
        _append(self._directory / "verdicts.jsonl", {"task_id": task_id, "seed": seed, **asdict(verdict)})


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines; what a run that was killed had half written is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
