"""What a run has so far, in a folder: whoever ends it may begin it again, and nothing is asked or executed twice.

`settings.json` says what is asked, `samples.jsonl` has the answers (`task_id`, `completion`: as others' tools name
them), `verdicts.jsonl` what became of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

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


@dataclass(frozen=True)
class Judged:
    task_id: str
    seed: int
    passed: bool
    why: str

    @property
    def key(self) -> Key:
        return self.task_id, self.seed


Line = TypeVar("Line", Sample, Judged)


class Record:
    """samples, verdicts: by problem and seed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.samples = {sample.key: sample for sample in _read(directory / "samples.jsonl", Sample)}
        self.verdicts = {judged.key: judged for judged in _read(directory / "verdicts.jsonl", Judged)}

    def settings(self) -> Settings | None:
        path = self._directory / "settings.json"
        return Settings(**json.loads(path.read_text())) if path.exists() else None

    def begin(self, settings: Settings) -> None:
        """Raises ValueError where the folder has the answers of other settings."""
        if (old := self.settings()) is None:
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
            _append(self._directory / "samples.jsonl", sample)

    def add_verdict(self, key: Key, verdict: Verdict) -> None:
        judged = Judged(*key, verdict.passed, verdict.why)
        self.verdicts[key] = judged
        _append(self._directory / "verdicts.jsonl", judged)


def _read(path: Path, kind: type[Line]) -> list[Line]:
    """Whole lines; what a run that was killed had half written is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [kind(**json.loads(line)) for line in whole.splitlines()]


def _append(path: Path, line: Sample | Judged) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(line)) + "\n")
