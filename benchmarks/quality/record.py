"""What a run has so far, in a folder: whoever ends it may begin it again, and nothing is asked or executed twice.

`settings.json` says what is asked, `samples.jsonl` has the answers (`task_id`, `completion`: as others' tools name
them), `verdicts.jsonl` what became of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality.run_folder import RunFolder
from benchmarks.quality.sandbox.judge import Verdict
from benchmarks.quality.served import Served

SAMPLES, VERDICTS = "samples.jsonl", "verdicts.jsonl"

Key = tuple[str, int]
"""Problem and seed."""


@dataclass(frozen=True)
class Settings:
    """What makes answers what they are: those of other settings are others."""

    benchmark: str
    served: Served
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
        self._folder = RunFolder(directory)
        self.samples = {(line["task_id"], line["seed"]): Sample(**line) for line in self._folder.read(SAMPLES)}
        self.verdicts = {
            (line["task_id"], line["seed"]): Verdict(line["passed"], line["why"])
            for line in self._folder.read(VERDICTS)
        }

    @property
    def served(self) -> Served:
        """Whose answers these are. Raises ValueError where nothing was asked yet."""
        return self._folder.served

    def begin(self, settings: Settings) -> None:
        """Raises ValueError where the folder has the answers of other settings."""
        told = {name: value for name, value in vars(settings).items() if name != "served"}
        self._folder.begin({**settings.served.settings(), **told})

    def add_samples(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.samples[sample.key] = sample
            self._folder.append(SAMPLES, asdict(sample))

    def add_verdict(self, key: Key, verdict: Verdict) -> None:
        self.verdicts[key] = verdict
        task_id, seed = key
        self._folder.append(VERDICTS, {"task_id": task_id, "seed": seed, **asdict(verdict)})
